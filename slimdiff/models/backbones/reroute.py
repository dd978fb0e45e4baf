"""The calls of a module answered by another function, in place, and exactly undone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

#: ``around(original, *args, **kwargs)`` answers a call of the module in place of ``original(*args, **kwargs)``
Around = Callable[..., Any]


def reroute(module: nn.Module, around: Around) -> Callable[[], None]:
    """Let ``around`` answer the calls of ``module``; returns the function that undoes it.

    A module that was compiled in place (``module.compile()``) is answered before its compiled code, which ``original``
    then runs.
    """
    name = 'forward' if module._compiled_call_impl is None else '_compiled_call_impl'
    before, original = vars(module).get(name), getattr(module, name)

    @functools.wraps(original)
    def rerouted(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(module, name, rerouted)

    def undo() -> None:
        if before is None:
            delattr(module, name)
        else:
            setattr(module, name, before)

    return undo


def reclass(thing: Any, **methods: Callable[..., Any]) -> Callable[[], None]:
    """Give one object methods of its own, by a subclass of the same name; returns the function that undoes it.

    Copies of the object have them too, which functions set on the object would not survive: they stay bound to it.
    Each of ``methods`` takes the original method, the object and the arguments; what the class lacks is left out.
    """
    cls = type(thing)

    def wrapped(original: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:

        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return around(functools.partial(original, self), self, *args, **kwargs)

        return method

    own = {name: wrapped(getattr(cls, name), around) for name, around in methods.items() if hasattr(cls, name)}
    same = {name: getattr(cls, name) for name in ('__module__', '__qualname__', '__doc__')}
    thing.__class__ = mine = type(cls.__name__, (cls, ), {**own, **same})

    def undo() -> None:
        thing.__class__ = cls
        for name in own:  # the class outlives the object, as a key of caches, and must not keep what they close over
            delattr(mine, name)

    return undo

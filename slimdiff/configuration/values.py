"""Does a value of a config fit the annotation of the argument that it is given to?"""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from slimdiff.arguments import declared_parameters

# Whose unannotated arguments take values like their defaults. A user's class without annotations takes anything.
PACKAGES = ('torch', 'mmengine', 'mmcv', 'diffusers')
# Whose annotation says too little, or not what the documentation does.
INSTEAD = {('AmpOptimWrapper', 'loss_scale'): str | float | Mapping[str, Any],
           ('Visualizer', 'vis_backends'): Sequence[Mapping[str, Any]] | None}
TITLES = {bool: 'True or False', int: 'an integer', float: 'a number', str: 'a string', type(None): 'None'}
SEQUENCES = (Sequence, collections.abc.Iterable, collections.abc.Collection, list, tuple, set, frozenset)
ARRAYS = ('Tensor', 'ndarray')  # no plain data is one
PLAIN = (type(None), bool, int, float, str, list, tuple, set, Mapping)


class Argument(NamedTuple):
    """What an argument takes (``Any`` if nothing says so), and whether it has no default."""

    hint: Any = Any
    required: bool = False


class Misfit(NamedTuple):
    """Where within a value, what should stand there, and what does."""

    path: tuple[str, ...]
    wanted: str
    got: Any


@functools.cache
def arguments_of(function: Callable) -> dict[str, Argument]:
    """The arguments that ``function`` (or a class) declares."""
    found = {}
    for name, declared in declared_parameters(function)[0].items():
        if declared is None:
            found[name] = Argument()
            continue
        owner, parameter = declared
        instead = INSTEAD.get((getattr(function, '__name__', ''), name))
        hint = _hint(owner, parameter) if instead is None else instead
        found[name] = Argument(hint, parameter.default is parameter.empty)
    return found


def _hint(owner: Callable, parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if parameter.annotation is parameter.empty:
        known = getattr(owner, '__module__', '').split('.')[0] in PACKAGES and type(default) in (bool, int, float, str)
        return (float if type(default) is int else type(default)) if known else Any
    owner = inspect.unwrap(owner)
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        # typing's names, for an argument with the signature of another module (SlimmableUNet's are UNet's).
        hint = typing.get_type_hints(holder, {**vars(typing), **getattr(owner, '__globals__', {})})[parameter.name]
    except Exception:  # a name under TYPE_CHECKING, say
        return Any
    if default is not parameter.empty and misfit(default, hint):  # int = None
        hint = typing.Union[hint, type(default)]  # noqa: UP007 (of anything)
    return hint


def misfit(value: Any, hint: Any, path: tuple[str, ...] = ()) -> Misfit | None:
    """What in ``value`` does not fit ``hint``; None if it fits, or if there is no telling.

    Lists and tuples are the same, an integer is a number, True is neither; a dict may stand for the object that is
    built from it. Objects fit everywhere: only plain data is judged.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, PLAIN) or hint is Any:
        return None
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Annotated:
        return misfit(value, args[0], path)
    wrong = Misfit(path, in_words(hint), value)
    if origin in (typing.Union, types.UnionType):
        found = [misfit(value, member, path) for member in args]
        inside = [each for each in found if each is not None and each.path != path]
        return None if None in found else inside[0] if len(inside) == 1 else wrong
    if origin is typing.Literal:
        return None if any(value == arg and type(value) is type(arg) for arg in args) else wrong
    if hint is None or origin is type(None):
        return None if value is None else wrong
    if not isinstance(origin, type) or origin is object:
        return None
    if origin in SEQUENCES:
        return _items(value, origin, args, path) if isinstance(value, (list, tuple, set)) else wrong
    if issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return wrong
        items = value.items() if len(args) == 2 else ()
        return next(filter(None, (misfit(item, args[1], (*path, str(key))) for key, item in items)), None)
    return None if _is_a(value, origin) else wrong


def _items(value: Any, origin: type, args: tuple[Any, ...], path: tuple[str, ...]) -> Misfit | None:
    hints = [args[0] if args else Any] * len(value)  # Tuple[int], too: diffusers means any number by it
    if origin is tuple and len(args) > 1 and args[-1] is not Ellipsis:
        if len(value) != len(args):
            return Misfit(path, in_words(tuple[args]), value)
        hints = args
    return next(filter(None, (misfit(item, hint, (*path, str(i)))
                              for i, (item, hint) in enumerate(zip(value, hints)))), None)


def _is_a(value: Any, kind: type) -> bool:
    """Whether plain data that is neither None, a list nor a dict for a dict is a ``kind``, or can become one."""
    if kind is bool or isinstance(value, bool):
        return isinstance(value, bool) and kind is bool
    if kind is int:
        return isinstance(value, int)
    if issubclass(kind, (float, numbers.Number)):
        return isinstance(value, (int, float))
    if issubclass(kind, enum.Enum):
        return isinstance(value, (int, str))
    if issubclass(kind, (str, os.PathLike, type)) or kind.__name__ in ('dtype', 'device'):
        return isinstance(value, str)
    if issubclass(kind, bytes) or kind.__name__ in ARRAYS:
        return False
    return isinstance(value, Mapping)  # a class, or Callable: what a config builds it from


def in_words(hint: Any) -> str:
    """``int | None`` as "an integer or None"."""
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in TITLES:
        return TITLES[origin]
    if origin in (typing.Union, types.UnionType):
        named = [in_words(arg) for arg in args if getattr(arg, '__name__', '') not in ARRAYS]
        return ' or '.join(dict.fromkeys(named))
    if origin is typing.Literal:
        return ' or '.join(map(repr, args))
    if origin in SEQUENCES:
        if origin is tuple and len(args) > 1 and args[-1] is not Ellipsis:
            return f'a list of {len(args)}: {", ".join(map(in_words, args))}'
        return f'a list, each item {in_words(args[0])}' if args and args[0] is not Any else 'a list'
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return 'a dict'
    if isinstance(origin, type) and issubclass(origin, (os.PathLike, numbers.Number)):
        return 'a path' if issubclass(origin, os.PathLike) else 'a number'
    return f'a dict (of a {origin.__name__})' if isinstance(origin, type) else str(hint)


def advice(wrong: Misfit) -> str:
    """What to do about the commonest misfits, as the end of a message."""
    if isinstance(wrong.got, str) and wrong.got.startswith(('[', '(')):
        return ' The words in a list need quotes, on the command line too: "[\'a\', \'b\']".'
    if wrong.wanted.startswith('a string') and not isinstance(wrong.got, (list, tuple, Mapping)):
        return f' A string needs quotes, on the command line twice: "\'{wrong.got}\'".'
    return ''

"""What a class takes as arguments, and values of a config as plain data."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmengine.config import ConfigDict

from slimdiff.spelling import did_you_mean


class RegistryError(ValueError):
    """A ``type`` that no registry holds, or an argument that its class does not take."""


@functools.cache
def declared_parameters(cls: Callable) -> tuple[dict[str, tuple[Callable, inspect.Parameter] | None], bool]:
    """The keyword arguments that ``cls(...)`` declares, and whether it takes others too.

    Each name has the function that declares it and the parameter there (None: it is taken out of ``**kwargs``).
    ``**kwargs`` is followed into the base class where ``__init__`` does nothing with it but
    ``super().__init__(..., **kwargs)`` (names taken out with ``kwargs.pop('x')`` count as declared).
    Anything else that is done with ``**kwargs`` means that any name may be right.
    """
    found: dict[str, tuple[Callable, inspect.Parameter] | None] = {}
    taken: set[str] = set()
    positional = 0  # arguments of this initialiser that the one before gives by position
    for init in _initialisers(cls):
        try:
            parameters = list(inspect.signature(init).parameters.values())
        except (TypeError, ValueError):  # built in C
            return found, True
        if inspect.isclass(cls):
            parameters = parameters[1:]  # self, whatever its name
        for parameter in parameters[positional:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) \
                    and parameter.name not in taken:
                found.setdefault(parameter.name, (init, parameter))
        rest = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if rest is None:
            return found, False
        followed = _passed_to_super(init, rest) if inspect.isclass(cls) else None
        if followed is None:
            return found, True
        popped, fixed, positional = followed
        found |= {name: None for name in popped if name not in found}
        taken |= fixed - set(found)
    return found, False


def declared_arguments(cls: Callable) -> tuple[frozenset[str], bool]:
    """The names of :func:`declared_parameters`, and whether ``cls`` takes others too."""
    parameters, takes_others = declared_parameters(cls)
    return frozenset(parameters), takes_others


def _initialisers(cls: Callable) -> list[Callable]:
    """The ``__init__`` functions that ``cls(...)`` reaches, first called first; ``cls`` itself if it is a function."""
    if not inspect.isclass(cls):
        return [cls]
    if not any('__init__' in base.__dict__ for base in cls.__mro__ if base is not object) \
            and cls.__new__ is not object.__new__:
        return [cls.__new__]
    return [base.__dict__['__init__'] for base in cls.__mro__
            # nn.Module declares *args and **kwargs but refuses both.
            if '__init__' in base.__dict__ and base is not object
            and f'{base.__module__}.{base.__name__}' != 'torch.nn.modules.module.Module']


def _passed_to_super(init: Callable, rest: str) -> tuple[set[str], set[str], int] | None:
    """What ``init`` does with its ``**rest``: names popped from it; names and number of positional arguments that it
    gives to super().__init__ itself.

    None if it does anything but pass it on, or if the source cannot be read.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):
        return None
    popped: set[str] = set()
    fixed: set[str] = set()
    positional = 0
    uses = sum(isinstance(node, ast.Name) and node.id == rest for node in ast.walk(tree))
    passed_on = False
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if not isinstance(call.func, ast.Attribute):
            continue
        owner = call.func.value
        if call.func.attr in ('pop', 'get') and isinstance(owner, ast.Name) and owner.id == rest \
                and call.args and isinstance(call.args[0], ast.Constant):
            popped.add(str(call.args[0].value))
            uses -= 1
        elif call.func.attr == '__init__' and isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) \
                and owner.func.id == 'super' and any(
                    k.arg is None and isinstance(k.value, ast.Name) and k.value.id == rest for k in call.keywords):
            fixed |= {k.arg for k in call.keywords if k.arg is not None}
            positional = sum(not isinstance(argument, ast.Starred) for argument in call.args)
            passed_on = True
            uses -= 1
    return (popped, fixed, positional) if passed_on and uses == 0 else None


def accepted_arguments(cls: Callable) -> frozenset[str] | None:
    """Names of the keyword arguments that ``cls(...)`` takes; None if it takes any."""
    names, takes_others = declared_arguments(cls)
    return None if takes_others else names


def check_arguments(cls: Callable, given: Iterable[str]) -> None:
    """Raise :class:`RegistryError` if ``cls`` does not take an argument of that name."""
    accepted = accepted_arguments(cls)
    if accepted is None:
        return
    for name in given:
        if name not in accepted:
            takes = f'It takes: {", ".join(sorted(accepted))}.' if accepted else 'It takes none.'
            raise RegistryError(f"{cls.__name__} takes no argument '{name}'.{did_you_mean(name, accepted)} {takes}")


def plain(value):
    """Copy a config value with every ConfigDict made a dict, so that it can be written as JSON."""
    if isinstance(value, (dict, ConfigDict)):
        return {k: plain(v) for k, v in dict(value).items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    return value


def flatten(value: Any, prefix: str = '') -> dict[str, Any]:
    """A nested config as ``{'model.unet.in_channels': 3, ...}``; empty containers are leaves."""
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, (list, tuple)) and value:
        items = enumerate(value)
    else:
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f'{prefix}.{key}' if prefix else str(key))
    return flat

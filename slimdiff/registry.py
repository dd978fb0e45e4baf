"""All registries of slimdiff on one screen.

Each is a child of the mmengine registry of the same kind, so a config may name a slimdiff class,
an mmengine class or (for optimizers) a torch class with the same ``type=`` string.

A misspelt ``type`` or argument raises :class:`RegistryError`, which names the nearest right one.

Here, and only here, a name becomes a class. A name out of a checkpoint, a folder or any JSON file finds what is
registered and imports nothing; a dotted path is imported only if the user's own config has it (:func:`trust_types`).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import DATASETS as MM_DATASETS
from mmengine.registry import HOOKS as MM_HOOKS
from mmengine.registry import LOOPS as MM_LOOPS
from mmengine.registry import METRICS as MM_METRICS
from mmengine.registry import MODELS as MM_MODELS
from mmengine.registry import RUNNERS as MM_RUNNERS
from mmengine.registry import TRANSFORMS as MM_TRANSFORMS
from mmengine.registry import Registry as ImportingRegistry

from slimdiff.installation import raised_here
from slimdiff.spelling import did_you_mean, nearest


class RegistryError(ValueError):
    """A ``type`` that no registry holds, or an argument that its class does not take."""


#: why a dotted path is not found
NOT_IMPORTED = (' A dotted path is imported only from your own config file (.py), never from a checkpoint, a folder or '
                'JSON: there or in Python, import its module and register the class.')
#: dotted paths that the user's own configs name
_TRUSTED: set[str] = set()


def trust_types(config: Mapping[str, Any]) -> None:
    """Let registries import the dotted paths in ``type=`` of a config, which must be a file of the user's own."""
    _TRUSTED.update(value for key, value in flatten(config).items()
                    if key.rpartition('.')[2] == 'type' and isinstance(value, str) and '.' in value)


def is_trusted(name: str) -> bool:
    """Whether a config of the user's names this dotted path."""
    return name in _TRUSTED


class Registry(ImportingRegistry):
    """A registry that looks names up. mmengine's imports what it does not know, down to ``subprocess.Popen``."""

    def get(self, key: Any) -> Callable | None:
        """What is registered as ``key`` (``Name`` or ``scope.Name``) here or in a parent; None if nothing is."""
        if not isinstance(key, str):
            return None
        if key in _TRUSTED:
            return super().get(key)
        self.import_from_location()
        scope, _, name = key.rpartition('.')
        registry: ImportingRegistry | None = self
        while registry is not None:
            if scope in ('', registry.scope) and name in registry.module_dict:
                return registry.module_dict[name]
            registry = registry.parent
        return None


#: kinds of registry with too many names for a message: those that most people want, and where all of them are listed
LONG_LISTS = {'scheduler': (
    ('DDPMScheduler', 'DDIMScheduler', 'DPMSolverMultistepScheduler', 'UniPCMultistepScheduler'),
    'https://huggingface.co/docs/diffusers/api/schedulers/overview')}


def suggest(kind: str, name: str, options: Iterable[str]) -> str:
    """Return what an error says after an unknown name: the nearest one, and all of them unless they are too many."""
    options = sorted(options)
    if kind not in LONG_LISTS:
        return f'{did_you_mean(name, options)} Known: {", ".join(options)}.'
    usual, listed = LONG_LISTS[kind]
    close = [option for option in nearest(name, options) if option != name]
    hint = f" Did you mean '{close[0]}'?" if close else ''
    others = ', '.join(close[1:] or usual)
    return (f'{hint} {"Also near" if close[1:] else "Often used"}: {others}. '
            f'All {len(options)} are in diffusers.schedulers: {listed}')


def known_names(registry: ImportingRegistry) -> list[str]:
    """Every name that ``registry`` resolves: its own and those of its parents."""
    registry.import_from_location()
    names = set(registry.module_dict)
    if registry.parent is not None:
        names |= set(registry.parent.module_dict)
    return sorted(names)


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


def build_checked(cfg, registry: ImportingRegistry, kind: type = object, **defaults):
    """Build ``cfg`` (a dict with ``type``) from ``registry``; an object that is no dict passes through.

    Args:
        kind: what the class must be a subclass of.

    Raises:
        RegistryError: no ``type``, an unknown ``type``, another kind of class, or an argument it does not take.
    """
    if not isinstance(cfg, (dict, ConfigDict)):
        return cfg
    args = {**defaults, **plain(cfg)}
    if 'type' not in args:
        raise RegistryError(f"{registry.name}: a config dict needs 'type', got the keys {sorted(args)}.")
    name = args.pop('type')
    args.pop('_scope_', None)
    cls = registry.get(name) if isinstance(name, str) or not callable(name) else name
    if cls is None:
        names = known_names(registry)
        raise RegistryError(f"There is no {registry.name} of type '{name}'.{suggest(registry.name, name, names)}"
                            f'{NOT_IMPORTED if "." in str(name) else ""}')
    check_kind(cls, kind, registry.name)
    check_arguments(cls, args)
    with building(getattr(cls, '__name__', str(name))):
        return cls(**args)


@contextlib.contextmanager
def building(what: str, *more: type[Exception]) -> Iterator[None]:
    """What a library refuses within this is a value that it was given: its error becomes a :class:`RegistryError`.

    Args:
        what: is built, for the message.
        more: errors besides ValueError, RuntimeError and AssertionError that mean that. For values of a file TypeError
            does; in a user's own class it is a mistake. Errors of slimdiff itself then get the message, too.
    """
    try:
        yield
    except (ValueError, RuntimeError, AssertionError, *more) as error:
        if raised_here(error) and not more:
            raise
        raise RegistryError(f'{what} cannot be built: {error}') from error


def check_kind(cls: Any, kind: type, what: str) -> None:
    """Raise :class:`RegistryError` unless ``cls`` is a class of this kind."""
    if kind is not object and not (inspect.isclass(cls) and issubclass(cls, kind)):
        raise RegistryError(f"{what}: '{getattr(cls, '__name__', cls)}' is not a {kind.__name__}; one is needed here.")


def _child(name: str, parent: ImportingRegistry | None, *locations: str) -> Registry:
    return Registry(name, parent=parent, scope='slimdiff', build_func=build_checked, locations=list(locations))


MODELS = _child('model', MM_MODELS, 'slimdiff.models')
RESAMPLERS = _child('resampler', None, 'slimdiff.models.resamplers')
LOSSES = _child('loss', None, 'slimdiff.models.losses')
SCHEDULERS = _child('scheduler', None, 'slimdiff.sampling')
DATASETS = _child('dataset', MM_DATASETS, 'slimdiff.datasets')
TRANSFORMS = _child('transform', MM_TRANSFORMS, 'slimdiff.datasets')
METRICS = _child('metric', MM_METRICS, 'slimdiff.evaluation')
EXTRACTORS = _child('extractor', None, 'slimdiff.evaluation')
SEARCHERS = _child('searcher', None, 'slimdiff.search')
EVALUATORS = _child('step evaluator', None, 'slimdiff.search')
HOOKS = _child('hook', MM_HOOKS, 'slimdiff.engine')
LOOPS = _child('loop', MM_LOOPS, 'slimdiff.engine')
RUNNERS = _child('runner', MM_RUNNERS, 'slimdiff.engine')

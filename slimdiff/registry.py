"""All registries of slimdiff on one screen.

Each is a child of the mmengine registry of the same kind, so a config may name a slimdiff class,
an mmengine class or (for optimizers) a torch class with the same ``type=`` string.

A misspelt ``type`` or argument raises :class:`RegistryError`, which names the nearest right one.

Here, and only here, a name becomes a class. A name out of a checkpoint, a folder or any JSON file finds what is
registered and imports nothing; a dotted path is imported only if the user's own config has it (:func:`trust_types`).
"""

from __future__ import annotations

import contextlib
import inspect
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

from slimdiff.arguments import RegistryError, check_arguments, flatten, plain
from slimdiff.installation import raised_here
from slimdiff.spelling import did_you_mean, nearest

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


def build_checked(cfg, registry: ImportingRegistry, kind: type = object, **defaults):
    """Build ``cfg`` (a dict with ``type``) from ``registry``; an object that is not a dict passes through.

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

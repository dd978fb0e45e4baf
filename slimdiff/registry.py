"""All registries of slimdiff on one screen.

Each is a child of the mmengine registry of the same kind, so a config may name a slimdiff class,
an mmengine class or (for optimizers) a torch class with the same ``type=`` string.

A misspelt ``type`` or argument raises :class:`RegistryError`, which names the nearest right one.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable

from mmengine.config import ConfigDict
from mmengine.registry import DATASETS as MM_DATASETS
from mmengine.registry import HOOKS as MM_HOOKS
from mmengine.registry import LOOPS as MM_LOOPS
from mmengine.registry import METRICS as MM_METRICS
from mmengine.registry import MODELS as MM_MODELS
from mmengine.registry import RUNNERS as MM_RUNNERS
from mmengine.registry import TRANSFORMS as MM_TRANSFORMS
from mmengine.registry import Registry


class RegistryError(ValueError):
    """A ``type`` that no registry holds, or an argument that its class does not take."""


def nearest(name: str, options: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` of ``options`` spelt most like ``name``, best first (may be empty)."""
    by_folded = {option.lower(): option for option in options}
    return [by_folded[m] for m in difflib.get_close_matches(str(name).lower(), by_folded, n=n, cutoff=0.5)]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` with the nearest option, or an empty string."""
    found = nearest(name, options, n=1)
    return f" Did you mean '{found[0]}'?" if found else ''


def known_names(registry: Registry) -> list[str]:
    """Every name that ``registry`` resolves: its own and those of its parents."""
    registry.import_from_location()
    names = set(registry.module_dict)
    if registry.parent is not None:
        names |= set(registry.parent.module_dict)
    return sorted(names)


def accepted_arguments(cls: type) -> set[str] | None:
    """Names of the keyword arguments that ``cls(...)`` takes; None if it takes any.

    ``**kwargs`` is followed through the base classes: it counts as "any" only where the last
    ``__init__`` of the chain has it too.
    """
    names: set[str] = set()
    bases = cls.__mro__ if inspect.isclass(cls) else (cls,)
    for base in bases:
        init = base.__dict__.get('__init__') if inspect.isclass(base) else base
        if init is None or base is object:
            continue
        try:
            parameters = list(inspect.signature(init).parameters.values())
        except (TypeError, ValueError):
            return None
        names |= {
            p.name for p in parameters
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != 'self'
        }
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None


def check_arguments(cls: type, given: Iterable[str]) -> None:
    """Raise :class:`RegistryError` if ``cls`` does not take an argument of that name."""
    accepted = accepted_arguments(cls)
    if accepted is None:
        return
    for name in given:
        if name not in accepted:
            raise RegistryError(
                f"{cls.__name__} takes no argument '{name}'.{did_you_mean(name, accepted)} "
                f'It takes: {", ".join(sorted(accepted))}.')


def plain(value):
    """Copy a config value with every ConfigDict made a dict, so that it can be written as JSON."""
    if isinstance(value, (dict, ConfigDict)):
        return {k: plain(v) for k, v in dict(value).items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v) for v in value)
    return value


def build_checked(cfg, registry: Registry, **defaults):
    """Build ``cfg`` (a dict with ``type``) from ``registry``; an object that is no dict passes through.

    Raises:
        RegistryError: no ``type``, an unknown ``type`` or an argument the class does not take.
    """
    if not isinstance(cfg, (dict, ConfigDict)):
        return cfg
    args = {**defaults, **plain(cfg)}
    if 'type' not in args:
        raise RegistryError(f"{registry.name}: a config dict needs 'type', got the keys {sorted(args)}.")
    name = args.pop('type')
    args.pop('_scope_', None)
    cls = name if not isinstance(name, str) else registry.get(name)
    if cls is None:
        names = known_names(registry)
        raise RegistryError(f"There is no {registry.name} of type '{name}'.{did_you_mean(name, names)} "
                            f'Known: {", ".join(names)}.')
    check_arguments(cls, args)
    return cls(**args)


def _child(name: str, parent: Registry | None, *locations: str) -> Registry:
    return Registry(name, parent=parent, scope='slimdiff', build_func=build_checked, locations=list(locations))


MODELS = _child('model', MM_MODELS, 'slimdiff.models')
RESAMPLERS = _child('resampler', None, 'slimdiff.models.resamplers')
LOSSES = _child('loss', None, 'slimdiff.models.losses')
SCHEDULERS = _child('scheduler', None, 'slimdiff.sampling')
DATASETS = _child('dataset', MM_DATASETS, 'slimdiff.datasets')
TRANSFORMS = _child('transform', MM_TRANSFORMS, 'slimdiff.datasets')
METRICS = _child('metric', MM_METRICS, 'slimdiff.evaluation')
EXTRACTORS = _child('extractor', None, 'slimdiff.evaluation')
HOOKS = _child('hook', MM_HOOKS, 'slimdiff.engine')
LOOPS = _child('loop', MM_LOOPS, 'slimdiff.engine')
RUNNERS = _child('runner', MM_RUNNERS, 'slimdiff.engine')

"""Check every name of a config before anything is built from it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from slimdiff.configuration import known
from slimdiff.configuration.errors import ConfigError, locate
from slimdiff.configuration.spelling import looks_like
from slimdiff.registry import declared_arguments, did_you_mean, flatten, is_trusted, plain, suggest

Path = tuple[str, ...]
# Keys of a dict with a `type` that are for the registry or for merging, not for the class.
META_KEYS = {'type', '_scope_', '_delete_'}
OUR_PACKAGES = ('slimdiff', 'mmengine', 'mmcv', 'torch')


def check_config(cfg: Config | Mapping[str, Any]) -> None:
    """Look up every ``type`` of ``cfg`` and compare its arguments with the signature of its class.

    A helper variable at the top level is fine, unless it looks like a misspelt key of the Runner.
    Nothing is built; missing arguments are not looked for.

    Raises:
        ConfigError: all the misspelt names found, each with file, key path, nearest right name and allowed names.
    """
    filename = getattr(cfg, 'filename', None)
    problems: list[str] = []
    scope = cfg.get('default_scope')
    for path, name, message in _Checker(scope).problems(cfg):
        text = f'{locate(filename, name)}: {".".join(path)}: {message}'
        if text not in problems:
            problems.append(text)
    if problems:
        raise ConfigError(problems, filename)


def imports_of(config: Mapping[str, Any]) -> list[str]:
    """The places of a config that make mmengine run or import something besides what is registered.

    Such a config may be the user's own Python file, and nothing from elsewhere.
    """
    found = []
    for path, value in flatten(plain(config)).items():
        key = path.rpartition('.')[2]
        by_name = key in ('constructor', 'ema_type', 'runner_type') or (key == 'type' and '.' in str(value))
        if (path.split('.')[0] in ('_base_', 'custom_imports')
                or (key in ('_scope_', 'default_scope') and value not in (None, 'slimdiff', 'mmengine'))
                or (by_name and isinstance(value, str) and find_type(value, (), None)[0] is None)):
            found.append(f'{path}={value!r}')
    return found


@dataclass(frozen=True)
class Signature:
    """The keys that a dict of the config may have."""

    title: str
    names: frozenset[str]
    takes_others: bool = False

    def complaint(self, key: str) -> str | None:
        """What is wrong with ``key`` here, or None."""
        if key in self.names or key in META_KEYS:
            return None
        # A class that passes **kwargs on takes any name, but hardly one that is a letter away from one of its own.
        if self.takes_others and not looks_like(key, self.names):
            return None
        return (f"{self.title} takes no argument '{key}'.{did_you_mean(key, self.names)} "
                f'It takes: {", ".join(sorted(self.names)) or "none"}.')


def pattern(path: Path, table: Iterable[str]) -> str | None:
    """The entry of ``table`` that ``path`` matches; '*' in it stands for any one part."""
    for entry in table:
        parts = entry.split('.')
        if len(parts) == len(path) and all(p in ('*', part) for p, part in zip(parts, path)):
            return entry
    return None


def place_kinds(path: Path, owner: Callable | None) -> tuple[str, ...]:
    """The kinds of registry that the dict at ``path``, inside the class ``owner``, is built from; () if unknown."""
    place = pattern(path, known.PLACES)
    if place is not None:
        return known.PLACES[place]
    if owner is not None and getattr(owner, '__module__', '').split('.')[0] in OUR_PACKAGES[:3]:
        key = next((part for part in reversed(path) if not part.isdigit()), '')
        if key in known.ARGUMENTS:
            return (known.ARGUMENTS[key], )
        if key == 'init_cfg':
            return ('weight initializer', )
    return ()


def find_type(name: Any, kinds: tuple[str, ...], scope: str | None) -> tuple[Callable | None, str | None]:
    """The class of a ``type``, and the kind of the registry that holds it. (None, None): no registry has it."""
    if not isinstance(name, str):
        return (name, kinds[0] if kinds else None) if callable(name) else (None, None)
    bare, only = name, None
    head, _, tail = name.partition('.')
    if head in ('slimdiff', 'mmengine', scope):
        bare, only = tail, head
    order = [*kinds, *(kind for kind in known.registries() if kind not in kinds)]
    for kind in order:
        cls = known.kind_names((kind, ), scope, only).get(bare)
        if cls is not None:
            return cls, kind
    if '.' in name:
        return _imported(name, kinds), kinds[0] if kinds else None
    if 'model' in kinds:  # a network of diffusers, which is registered when it is asked for
        from slimdiff.models.backbones.load import find_class
        with contextlib.suppress(ValueError):
            return find_class(name), 'model'
    return None, None


def _imported(name: str, kinds: tuple[str, ...]) -> Callable | None:
    """The class behind ``mmdet.ResNet`` (a type of another library) or ``torch.nn.Conv2d`` (a path to import).

    Only those that the user's own config names are looked for: it takes an import.
    """
    if not is_trusted(name):
        return None
    for kind in kinds or known.registries():
        registry: Registry = known.registries()[kind][0]
        cls = registry.get(name)
        if cls is not None:
            return cls
    return None


def signature_at(node: Mapping[str, Any], path: Path, owner: Callable | None = None,
                 scope: str | None = None) -> tuple[Signature | None, Callable | None]:
    """What ``node``, the dict at ``path``, may hold, and the class built from it; None for what is not known."""
    if not path:
        return Signature('The Runner', frozenset(known.runner_keys()), takes_others=True), None
    if 'type' in node:
        cls, kind = find_type(node['type'], place_kinds(path, owner), scope)
        if cls is None:
            return None, None
        names, takes_others = declared_arguments(cls)
        names |= known.BUILDER_KEYS.get(kind or '', frozenset())
        return Signature(getattr(cls, '__name__', str(cls)), names, takes_others), cls
    if len(path) == 1 and path[0].endswith('_dataloader'):
        return Signature('A dataloader', _dataloader_keys()), None
    if path == ('default_hooks', ):
        return Signature('default_hooks', frozenset(known.default_hook_names()), takes_others=True), None
    plain = pattern(path, known.PLAIN_DICTS)
    if plain is not None:
        return Signature(plain, frozenset(known.PLAIN_DICTS[plain])), None
    argument = next((part for part in reversed(path) if not part.isdigit()), '')
    untyped = known.UNTYPED_ARGUMENTS.get((getattr(owner, '__name__', ''), argument))
    if untyped is not None:
        return Signature(untyped[0], untyped[1]()), None
    place = pattern(path, known.DEFAULT_TYPES)
    if place is None or (place == 'optim_wrapper' and 'optimizer' not in node):  # one wrapper for each sub-network
        return None, None
    kinds = known.PLACES[place]
    classes = [find_type(name, kinds, scope)[0] for name in known.DEFAULT_TYPES[place]]
    names = frozenset().union(*(declared_arguments(cls)[0] for cls in classes))
    extra = {'by_epoch'} if place == 'train_cfg' else known.BUILDER_KEYS.get(kinds[0], set())
    return Signature(' or '.join(cls.__name__ for cls in classes), names | extra), classes[0]


def _dataloader_keys() -> frozenset[str]:
    from torch.utils.data import DataLoader
    return frozenset(inspect.signature(DataLoader.__init__).parameters) - {'self'} | {'num_batch_per_epoch'}


class _Checker:

    def __init__(self, scope: str | None) -> None:
        self.scope = scope

    def problems(self, cfg: Config | Mapping[str, Any]) -> Iterator[tuple[Path, str, str]]:
        """Yield (path, wrong name, message)."""
        top = known.runner_keys()
        for key in cfg:
            similar = looks_like(key, top)
            if key not in top and similar:
                yield (key, ), key, (f"the Runner knows no key '{key}'. Did you mean '{similar}'? "
                                     '(If it is a helper variable of yours, give it a name less like that.)')
        # The Runner's own keys first: a helper variable shows up in them, where the path says more.
        for key in sorted(cfg, key=lambda k: k not in top):
            yield from self.visit(cfg[key], (key, ), None)

    def visit(self, value: Any, path: Path, owner: Callable | None,
              siblings: frozenset[str] = frozenset()) -> Iterator[tuple[Path, str, str]]:
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield from self.visit(item, (*path, str(index)), owner)
        if not isinstance(value, Mapping):
            return
        signature, cls = signature_at(value, path, owner, self.scope)
        if 'type' in value:
            message = self.type_problem(value['type'], path, owner, cls)
            if message:
                yield (*path, 'type'), str(value['type']), message
                return
        elif pattern(path, known.NEED_TYPE):
            message = f"needs a 'type', got only the keys {', '.join(map(str, value)) or '(none)'}."
            # A misspelt name over a base adds a dict beside the one that was meant.
            similar = did_you_mean(path[-1], siblings - {path[-1]}) if path[0] == 'default_hooks' else ''
            yield path, path[-1], message + similar
        if signature is not None:
            for key in value:
                complaint = signature.complaint(key)
                if complaint:
                    yield (*path, key), key, complaint
        for key in value:
            yield from self.visit(value[key], (*path, str(key)), cls if cls is not None else owner,
                                  frozenset(map(str, value)))

    def type_problem(self, name: Any, path: Path, owner: Callable | None, cls: Callable | None) -> str | None:
        """What is wrong with a ``type``, or None."""
        kinds = place_kinds(path, owner)
        names = known.kind_names(kinds, self.scope)
        if cls is None and isinstance(name, str):
            if not kinds:
                # Not a place that we know: clip_grad=dict(type='norm') is no registry's. Only a near miss is one.
                everything = known.kind_names(tuple(known.registries()), self.scope)
                similar = looks_like(name, everything)
                return f"no registry holds '{name}'. Did you mean '{similar}'?" if similar else None
            return self.unknown(name, kinds, names)
        if cls is not None and kinds and isinstance(name, str) and '.' not in name and name not in names:
            return f'{self.unknown(name, kinds, names)} (There is a {find_type(name, (), self.scope)[1]} of this name.)'
        if not isinstance(name, str) and not callable(name):
            return f"'type' must be a name or a class, got {name!r}."
        return None

    @staticmethod
    def unknown(name: str, kinds: tuple[str, ...], names: Iterable[str]) -> str:
        return f"there is no {' or '.join(kinds)} '{name}'.{suggest(' or '.join(kinds), name, names)}"

"""Check every name and every value of a config before anything is built from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry

from slimdiff.arguments import declared_parameters, flatten, plain
from slimdiff.configuration import known
from slimdiff.configuration.errors import ConfigError, assigns, locate, shown
from slimdiff.configuration.values import Argument, advice, arguments_of, misfit
from slimdiff.optional import missing_package
from slimdiff.registry import is_trusted, suggest
from slimdiff.spelling import did_you_mean, looks_like

KeyPath = tuple[str, ...]
# Keys of a dict with a `type` that are for the registry or for merging, not for the class.
META_KEYS = {'type', '_scope_', '_delete_'}
OUR_PACKAGES = ('slimdiff', 'mmengine', 'mmcv', 'torch')


def check_config(cfg: Config | Mapping[str, Any], needs: Sequence[str] = ()) -> None:
    """Look up every ``type`` of ``cfg`` and compare its arguments with the signature of its class.

    A helper variable at the top level is fine, unless it looks like a misspelt key of the Runner. Where all names are
    right, values must fit the annotations of what they are given to (a class without annotations takes anything), and
    no required argument may be missing. Nothing is built.

    Args:
        needs: top-level keys that a command can't do without.

    Raises:
        ConfigError: all the problems found, each with file and key path; for a name with the nearest right one and the
            allowed ones, for a value with what is wanted.
    """
    filename = getattr(cfg, 'filename', None)
    checker = _Checker(cfg)
    _raise(checker.misspelt_keys(cfg), filename)  # first: it is known without importing what is configured
    _raise(checker.problems(cfg), filename)
    scope = cfg.get('default_scope')
    if isinstance(scope, str) and find_spec(scope.split('.')[0]) is None:
        raise ConfigError(f"default_scope: there is no package '{scope}' here, so types would be looked up elsewhere. "
                          "Leave it out, or set 'slimdiff'.")
    lacking = ', '.join(key for key in needs if cfg.get(key) is None)
    if lacking:
        raise ConfigError(f"{shown(filename) if filename else 'The config'} lacks what this command needs: {lacking}. "
                          "Base it on one of slimdiff's own configs (_base_ = ...), or write it "
                          '(docs/en/user_guides/config.md).')
    _raise(checker.wrong_values(getattr(cfg, '_cfg_dict', cfg)), filename)


def _raise(found: Iterable[tuple[KeyPath, str, str]], filename: str | None) -> None:
    problems = [f'{locate(filename, name)}: {".".join(map(str, path))}: {message}' for path, name, message in found]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), filename)


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
    """The keys that a dict of the config may have, and what they take."""

    title: str
    arguments: Mapping[str, Argument]
    takes_others: bool = False

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.arguments)

    def complaint(self, key: str) -> str | None:
        """What is wrong with ``key`` here, or None."""
        if key in self.arguments or key in META_KEYS:
            return None
        # A class that passes **kwargs on takes any name, but hardly one that is a letter away from one of its own.
        if self.takes_others and not looks_like(key, self.names):
            return None
        return (f"{self.title} takes no argument '{key}'.{did_you_mean(key, self.names)} "
                f'It takes: {", ".join(sorted(self.names)) or "none"}.')


def pattern(path: KeyPath, table: Iterable[str]) -> str | None:
    """The entry of ``table`` that ``path`` matches; '*' in it stands for any one part."""
    for entry in table:
        parts = entry.split('.')
        if len(parts) == len(path) and all(p in ('*', part) for p, part in zip(parts, path)):
            return entry
    return None


def place_kinds(path: KeyPath, owner: Callable | None) -> tuple[str, ...]:
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


def needs_type(path: KeyPath, owner: Callable | None, signature: Signature | None) -> bool:
    """Whether a dict at ``path`` is of no use without a ``type``."""
    if pattern(path, known.PLACES):
        return pattern(path, known.NEED_TYPE) is not None
    # A teacher's `scheduler` is the settings that its folder lacks.
    return signature is None and path[-1] != 'scheduler' and bool(place_kinds(path, owner))


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
        from slimdiff.models.backbones.classes import find_class
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


def signature_at(node: Mapping[str, Any], path: KeyPath, owner: Callable | None = None,
                 scope: str | None = None) -> tuple[Signature | None, Callable | None]:
    """What ``node``, the dict at ``path``, may hold, and the class built from it; None for what is not known."""
    if not path:
        return Signature('The Runner', known.runner_keys(), takes_others=True), None
    fixed = pattern(path, known.PLAIN_DICTS)
    if fixed is not None:
        return Signature(fixed, {key: Argument(hint) for key, hint in known.PLAIN_DICTS[fixed].items()}), None
    if 'type' in node:
        cls, kind = find_type(node['type'], place_kinds(path, owner), scope)
        return (None, None) if cls is None else (_signature(cls, kind, path, owner), cls)
    if len(path) == 1 and path[0].endswith('_dataloader'):
        return Signature('A dataloader', known.dataloader_keys()), None
    if path == ('default_hooks', ):
        return Signature('default_hooks', dict.fromkeys(known.default_hook_names(), Argument()), True), None
    argument = next((part for part in reversed(path) if not part.isdigit()), '')
    untyped = known.UNTYPED_ARGUMENTS.get((getattr(owner, '__name__', ''), argument))
    if untyped is not None:
        title, find, own = untyped
        return Signature(title, {k: v for k, v in arguments_of(find()).items() if k not in own}), None
    place = pattern(path, known.DEFAULT_TYPES)
    if place is None or (place == 'optim_wrapper' and 'optimizer' not in node):  # one wrapper for each sub-network
        return None, None
    kinds = known.PLACES[place]
    classes = [find_type(name, kinds, scope)[0] for name in known.DEFAULT_TYPES[place]]
    # Which of several classes it will be, and so what it needs, is not known here.
    supplied = known.SUPPLIED.get(kinds[0], ())
    arguments = {name: Argument(argument.hint, argument.required and len(classes) == 1 and name not in supplied)
                 for cls in classes for name, argument in arguments_of(cls).items()}
    extra = {'by_epoch': Argument(bool)} if place == 'train_cfg' else _builder_keys(kinds[0])
    return Signature(' or '.join(cls.__name__ for cls in classes), arguments | extra), classes[0]


def _signature(cls: Callable, kind: str | None, path: KeyPath, owner: Callable | None) -> Signature:
    """Of a class by name; required is what the config has to give."""
    supplied = known.SUPPLIED.get(kind or '', ())
    anything = not place_kinds(path, owner) or kind in known.SUPPLIED_ANYTHING
    arguments = {name: Argument(argument.hint, argument.required and not anything and name not in supplied)
                 for name, argument in arguments_of(cls).items()}
    extra = {}
    if path[-1] == 'unet':
        from slimdiff.models.backbones.load import OF_THE_WRAPPER
        extra = dict.fromkeys(set(OF_THE_WRAPPER) - set(arguments), Argument())
    return Signature(getattr(cls, '__name__', str(cls)), arguments | _builder_keys(kind) | extra,
                     declared_parameters(cls)[1])


def _builder_keys(kind: str | None) -> dict[str, Argument]:
    return dict.fromkeys(known.BUILDER_KEYS.get(kind or '', ()), Argument())


class _Checker:

    def __init__(self, cfg: Config | Mapping[str, Any]) -> None:
        scope = cfg.get('default_scope')
        self.scope = scope if isinstance(scope, str) else None  # else a wrong value, which is reported as one
        self.filename = getattr(cfg, 'filename', None)

    def misspelt_keys(self, cfg: Config | Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, str]]:
        """Yield (path, wrong name, message) of what looks like a key of the Runner and is not."""
        top = known.runner_key_names()
        for key in cfg:
            similar = looks_like(key, top)
            if key not in top and similar:
                yield (key, ), key, (f"the Runner knows no key '{key}'. Did you mean '{similar}'? "
                                     '(If it is a helper variable of yours, give it a name less like that.)')

    def problems(self, cfg: Config | Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, str]]:
        """Yield (path, wrong name, message) of everything below the top."""
        top = known.runner_key_names()
        # The Runner's own keys first: a helper variable shows up in them, where the path says more.
        for key in sorted(cfg, key=lambda k: k not in top):
            yield from self.visit(cfg[key], (key, ), None)

    def visit(self, value: Any, path: KeyPath, owner: Callable | None,
              siblings: frozenset[str] = frozenset()) -> Iterator[tuple[KeyPath, str, str]]:
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield from self.visit(item, (*path, str(index)), owner)
        if not isinstance(value, Mapping):
            return
        signature, cls = signature_at(value, path, owner, self.scope)
        if 'type' in value and not pattern(path, known.PLAIN_DICTS):
            message = self.type_problem(value['type'], path, owner, cls)
            if message:
                yield (*path, 'type'), str(value['type']), message
                return
        elif needs_type(path, owner, signature):
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

    def wrong_values(self, value: Any, path: KeyPath = (), owner: Callable | None = None,
                     ) -> Iterator[tuple[KeyPath, str, str]]:
        """Yield (path, key, message) of what does not fit; for a config whose names are right."""
        if isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                yield from self.wrong_values(item, (*path, str(index)), owner)
        if not isinstance(value, Mapping):
            return
        signature, cls = signature_at(value, path, owner, self.scope)
        arguments = signature.arguments if signature is not None else {}
        if path == ('default_hooks', ):
            yield from self.hooks_without_effect(value)
        elif not path:
            yield from still_schedules(value, self.scope)
        if signature is not None:
            lacking = [name for name, argument in arguments.items() if argument.required and name not in value]
            if lacking:
                yield path, path[-1], f"{signature.title} needs {', '.join(map(repr, lacking))}."
        for key, item in value.items():
            wrong = misfit(item, arguments[key].hint) if key in arguments else None
            if wrong is None:
                yield from self.wrong_values(item, (*path, str(key)), cls if cls is not None else owner)
            else:
                yield ((*path, key, *wrong.path), key,
                       f'must be {wrong.wanted}, got {wrong.got!r}.{advice(wrong)}')

    def hooks_without_effect(self, hooks: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, str]]:
        """Yield the names that None is given to and that no hook has, here or in a base."""
        known_hooks = known.default_hook_names() | known.RUNTIME_HOOKS
        known_hooks |= {name for name, hook in hooks.items() if hook is not None}
        for name, hook in hooks.items():
            if hook is None and name not in known_hooks and not assigns(self.filename, name):
                yield (('default_hooks', name), name, 'there is no hook of this name to switch off.'
                       f'{did_you_mean(name, known_hooks)} Leave it out, or give a hook.')

    def type_problem(self, name: Any, path: KeyPath, owner: Callable | None, cls: Callable | None) -> str | None:
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
        if kinds == ('optimizer', ) and ('8bit' in name or name.startswith('bnb_')) and not find_spec('bitsandbytes'):
            return str(missing_package('bitsandbytes', 'bitsandbytes', name))
        return f"there is no {' or '.join(kinds)} '{name}'.{suggest(' or '.join(kinds), name, names)}"


def still_schedules(cfg: Mapping[str, Any], scope: str | None) -> Iterator[tuple[KeyPath, str, str]]:
    """Yield the schedules that no iteration would ever move: those by epoch in a loop that counts iterations."""
    loop, schedules = cfg.get('train_cfg'), cfg.get('param_scheduler')
    single, wrapper = isinstance(schedules, Mapping), cfg.get('optim_wrapper')
    if single and 'type' not in schedules and isinstance(wrapper, Mapping) and 'optimizer' in wrapper:
        yield ('param_scheduler', ), 'param_scheduler', "needs a 'type', or must be a list of dicts that have one."
    if not isinstance(loop, Mapping) or 'max_iters' not in loop:
        return
    for index, schedule in enumerate(schedules if isinstance(schedules, (list, tuple)) else [schedules]):
        if not isinstance(schedule, Mapping) or 'type' not in schedule:
            continue
        cls = find_type(schedule['type'], ('parameter scheduler', ), scope)[0]
        by_epoch = schedule.get('by_epoch', 'by_epoch' in arguments_of(cls))
        if by_epoch and not schedule.get('convert_to_iter_based') and not getattr(cls, 'need_val_args', False):
            yield (('param_scheduler', *(() if single else (str(index), ))), str(schedule['type']),
                   'counts epochs, and this training has none: the value would never change. Add by_epoch=False.')

"""``--cfg-options``: dotted keys over a loaded config. A key that could have no effect is an error."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config

from slimdiff.configuration.errors import ConfigError, shown
from slimdiff.spelling import did_you_mean


def apply_overrides(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Merge ``{'model.unet.stages.0.channels': 32}`` into ``cfg``.

    Raises:
        ConfigError: a key that is neither in the config nor taken by the class that stands there (in a dict that is
            no class's: a key that looks like a misspelt one); a list index out of range. ``cfg`` is then as it was.
    """
    view = copy.deepcopy(cfg)
    for key, value in sorted(overrides.items(), key=lambda item: not item[0].endswith('.type')):
        _check_key(view, key)
        if key.endswith('.type') and isinstance(value, str):  # its arguments may come with it
            view.merge_from_dict({key: value}, allow_list_keys=True)
    merged, nested = copy.deepcopy(cfg), {}
    for key, value in overrides.items():
        parts = key.split('.')
        if not _set_item(merged, parts, value):
            nested[key] = value
            _open_none(merged, parts if isinstance(value, dict) else parts[:-1])
    try:
        merged.merge_from_dict(nested, allow_list_keys=True)
    except (TypeError, KeyError, AssertionError) as error:
        raise ConfigError(f'{_name(cfg)}: the overrides {", ".join(overrides)} do not fit: '
                          f'{merge_problem(error)}') from error
    object.__setattr__(cfg, '_cfg_dict', merged._cfg_dict)  # as merge_from_dict does


def _set_item(cfg: Config, parts: list[str], value: Any) -> bool:
    """Set a plain item of a list or tuple (``betas.1``), which mmengine takes for a dict; False for any other key."""
    node, owner = cfg, None
    for part in parts[:-1]:
        owner, node = node, node[int(part)] if isinstance(node, (list, tuple)) else node.get(part)
        if node is None:
            return False
    if not isinstance(node, (list, tuple)) or isinstance(node[int(parts[-1])], (Mapping, list, tuple)):
        return False
    items = list(node)
    items[int(parts[-1])] = value
    owner[int(parts[-2]) if isinstance(owner, list) else parts[-2]] = type(node)(items)
    return True


def merge_problem(error: Exception) -> str:
    """What mmengine says of two configs that can't be merged, in plain words."""
    found = re.match(r'(\S+?)=.* cannot inherit .* is of type <class .(\w+).> in base', str(error), re.DOTALL)
    if not found:
        return f'{type(error).__name__}: {error}'
    key, kind = found[1], {'NoneType': 'None', 'ConfigDict': 'dict'}.get(found[2], found[2])
    return (f"'{key}' is a dict, but {kind} in what it is merged over: give "
            f"{'a list of dicts' if kind == 'list' else 'no dict'}, or add _delete_=True to the dict.")


def _name(cfg: Config) -> str:
    return shown(cfg.filename) if cfg.filename else 'config'


def _open_none(cfg: Config, parts: list[str]) -> None:
    """Make the None on the way to a key (``clip_grad=None``) a dict: mmengine refuses to merge a dict over it."""
    node: Any = cfg
    for part in parts:
        at = int(part) if isinstance(node, list) else part
        if not isinstance(node, list) and at not in node:
            return
        if node[at] is None:
            node[at] = {}
        node = node[at]


def _check_key(cfg: Config, key: str) -> None:
    node: Any = cfg
    path: tuple[str, ...] = ()
    owner: Callable | None = None
    for part in key.split('.'):
        where = '.'.join(path) or 'the top level'
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f"{_name(cfg)}: --cfg-options {key}: {where} is a list of {len(node)}, so '{part}' "
                                  f'must be an index from 0 to {len(node) - 1}.')
            node = node[int(part)]
        elif isinstance(node, Mapping) or node is cfg:
            # Late: it fills the registries, which takes seconds, and most overrides do not need it.
            if part not in node and part != '_delete_':
                _check_new(cfg, node, part, path, owner, key)
                return
            if 'type' in node and path:
                owner = _class_of(node, path, owner, cfg)
            node = node.get(part)
        elif node is None:
            return  # a default of None that the override replaces by a dict
        else:
            raise ConfigError(f'{_name(cfg)}: --cfg-options {key}: {where} is {node!r}, it has no keys.')
        path = (*path, part)


def _class_of(node: Mapping[str, Any], path: tuple[str, ...], owner: Callable | None, cfg: Config) -> Callable | None:
    from slimdiff.configuration.check import signature_at
    return signature_at(node, path, owner, cfg.get('default_scope'))[1]


def _check_new(cfg: Config, node: Any, part: str, path: tuple[str, ...], owner: Callable | None, key: str) -> None:
    """Raise unless ``part``, which ``node`` does not have, is something that may stand there."""
    from slimdiff.configuration.check import place_kinds, signature_at
    from slimdiff.configuration.known import runner_key_names
    from slimdiff.spelling import looks_like
    signature = signature_at(node, path, owner, cfg.get('default_scope'))[0] if path else None
    names = signature.names if signature else set() if path else runner_key_names()  # which imports nothing
    allowed = set(node) | names | ({'type'} if place_kinds(path, owner) else set())
    # A dict that no class declares, such as paramwise_cfg, may take any name; a near miss of what it has is an error.
    takes_others = bool(path) and (signature is None or signature.takes_others)
    if part in allowed - set(node) or (takes_others and not looks_like(part, allowed)):
        return
    where = '.'.join(path) or 'the top level of the config'
    raise ConfigError(f"{_name(cfg)}: --cfg-options {key}: there is no '{part}' in {where}."
                      f"{did_you_mean(part, allowed)} It may have: {', '.join(sorted(map(str, allowed)))}.")

"""Whether two runs are the same experiment: what of a resolved config decides its figures."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from slimdiff.arguments import flatten
from slimdiff.checkpoint import same

#: where a run's files lie, how it is shown and what it loads its data with; the seed names the run
IRRELEVANT = (
    'work_dir', 'resume', 'load_from', 'overwrite', 'launcher', 'log_level', 'log_processor*', 'experiment_name',
    'visualizer*', 'vis_backends*', 'env_cfg*', 'default_scope', 'runner_type', 'randomness.seed', 'test_*',
    '*dataloader.num_workers', '*dataloader.persistent_workers', '*dataloader.pin_memory',
    '*dataloader.prefetch_factor', 'train_cfg.sync_interval', '*_cfg.progress',
    'model.teacher.cache', 'model.teacher.compile', 'model.teacher.micro_batch',
    '*dataloader.collate_fn.type',
    'output_losses*')  # a variable of a base config, which `model` names
#: what a result says -> what the same thing is called now
RENAMED = {'configs/ldm/photo_patches_16px_teacher': 'configs/ldm/photo_patches_16px_weights'}


def relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a resolved config that decide what a run of a given seed arrives at, flattened.

    Unlike the rules for resuming, iterations and the evaluation belong to it. Of the hooks only the EMA does.
    """
    config = dict(config)
    hooks = [*(config.pop('default_hooks', None) or {}).values(), *(config.pop('custom_hooks', None) or [])]
    config['hooks'] = [hook for hook in hooks if isinstance(hook, Mapping) and hook.get('type') == 'EMAHook']
    return same.as_json(deciding(flatten(config)))


def deciding(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a flat config that decide."""
    return {key: value for key, value in flat.items()
            if not any(fnmatch.fnmatch(key, pattern) for pattern in IRRELEVANT)}


def digest(flat: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of :func:`relevant`."""
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], limit: int = 4) -> str:
    """In words what differs: ``key: old -> new, ...``; empty if nothing does. ``old`` may be of an older slimdiff."""
    old = {key: RENAMED.get(value, value) if isinstance(value, str) else value for key, value in deciding(old).items()}
    changed = same.differences(old, deciding(new))
    return ', '.join(changed[:limit]) + (f' and {len(changed) - limit} more' if len(changed) > limit else '')

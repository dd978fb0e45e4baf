"""What of a run besides weights and optimizer goes into a checkpoint: what it is, schedules, logged values."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import MessageHub, print_log

from slimdiff.arguments import plain
from slimdiff.checkpoint import files
from slimdiff.checkpoint.plain_data import decode, encode, encode_or_drop
from slimdiff.models import computation
from slimdiff.version import __version__

#: the part of a scheduler's state that is progress; the rest is its config's
SCHEDULER_PROGRESS = ('last_step', '_global_step', '_last_value')


def description(runner: Any, done: int) -> dict[str, Any]:
    """The ``meta`` of a checkpoint after ``done`` iterations."""
    config, _ = encode_or_drop(plain(runner.cfg._cfg_dict))
    dataset_meta, _ = encode_or_drop(plain(dict(runner.visualizer.dataset_meta or {})))
    return {
        'format': files.FORMAT, 'format_version': files.FORMAT_VERSION, 'slimdiff_version': __version__, 'iter': done,
        'epoch': runner.epoch, 'seed': runner.seed, 'world_size': runner.world_size,
        'config': config,
        'computes': computation.of_model(runner.unwrapped_model), 'dataset_meta': dataset_meta,
        'teacher': teacher_of(runner)}


def teacher_of(runner: Any) -> str | None:
    """The fingerprint of the teacher of the runner's model; None without one."""
    return getattr(getattr(runner.unwrapped_model, 'teacher', None), 'fingerprint', None)


def scheduler_states(schedulers: Sequence[Any] | None) -> list[Any]:
    """Of parameter schedulers, as plain data."""
    return [encode(scheduler.state_dict()) for scheduler in schedulers or []]


def keep_settings(groups: Sequence[dict[str, Any]], configured: Sequence[Mapping[str, Any]], goes_on: bool) -> None:
    """Put the settings of a config (rates, weight decay, betas, ...) back into an optimizer's restored ``groups``.

    Args:
        configured: copies of the groups as they were before the checkpoint was read.
        goes_on: a value with a schedule keeps the share of its initial one to which the schedule has brought it; False
            where schedules start from scratch.
    """
    for group, new in zip(groups, configured):
        for name, value in new.items():
            before, initial = group.get(f'initial_{name}'), new.get(f'initial_{name}')
            if goes_on and before and initial is not None:
                group[name] *= initial / before
            elif name != 'params' and not name.startswith('initial_'):
                group[name] = value
        group.update({name: value for name, value in new.items() if name.startswith('initial_')})


def restore_schedulers(schedulers: Sequence[Any] | None, states: Sequence[Mapping[str, Any]] | None) -> bool:
    """Go on from :func:`scheduler_states`; another number of schedulers starts from scratch, with a warning.

    Returns:
        Whether they go on.
    """
    schedulers, states = schedulers or [], states or []
    if len(schedulers) != len(states):
        print_log(f'The checkpoint has {len(states)} parameter schedulers, the config {len(schedulers)}: they start '
                  'from scratch.', logger='current', level=logging.WARNING)
        return False
    for scheduler, state in zip(schedulers, states):
        scheduler.__dict__.update({name: state[name] for name in SCHEDULER_PROGRESS if name in state})
        scheduler.optimizer._global_step = state['_global_step']
    return True


def hub_state(hub: MessageHub) -> dict[str, Any]:
    """Logged values and run-time information, as plain data; what isn't is left out."""

    def data(values: Mapping[str, Any]) -> Any:
        return encode_or_drop({key: value for key, value in values.items() if hub._resumed_keys.get(key, True)})[0]

    scalars, infos = data(hub.log_scalars), data(hub.runtime_info)
    kept = {key: value for key, value in hub._resumed_keys.items() if key in scalars or key in infos}
    return dict(log_scalars=scalars, runtime_info=infos, resumed_keys=kept)


def restore_hub(hub: MessageHub, state: Mapping[str, Any]) -> None:
    """Go on from :func:`hub_state`."""
    hub.log_scalars.update(decode(state['log_scalars']))
    hub.runtime_info.update(decode(state['runtime_info']))
    hub._resumed_keys.update(state['resumed_keys'])

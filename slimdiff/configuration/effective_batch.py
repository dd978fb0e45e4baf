"""Train with a config's batch on fewer GPUs: accumulate gradients, and stretch everything that counts iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from slimdiff.configuration.errors import ConfigError

#: what counts iterations: keys of these sections, stretched where they hold a number
SCHEDULE_KEYS = ('begin', 'end', 'T_max', 'total_iters', 'total_steps', 'step_size', 'milestones', 'periods')
LOOP_KEYS = ('max_iters', 'val_interval', 'val_begin')


def processes(environment: Mapping[str, str], launcher: str) -> int:
    """How many processes a launcher has started, before they have joined."""
    name = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS', 'mpi': 'OMPI_COMM_WORLD_SIZE'}.get(launcher)
    return int(environment.get(name, 1)) if name else 1


def accumulation(base: int, batch: int, world_size: int, counts: int = 1) -> int:
    """How many times ``counts`` iterations of ``batch`` on ``world_size`` processes make up a batch of ``base``.

    Raises:
        ConfigError: they don't make it up evenly; lists the batch sizes that do.
    """
    if base % (batch * world_size * counts):
        if counts > 1:
            raise ConfigError(f'--keep-batch: {counts} iterations (optim_wrapper.accumulative_counts) of {batch} '
                              f"samples on each of {world_size} processes do not evenly make up the config's batch of "
                              f'{base} (auto_scale_lr.base_batch_size): leave accumulative_counts out, or lower it.')
        fitting = [n for n in range(1, base // world_size + 1) if base % (n * world_size) == 0]
        advice = f'set train_dataloader.batch_size to one of {", ".join(map(str, fitting))}' if fitting else \
            f'take a number of processes that divides {base}'
        raise ConfigError(f'--keep-batch: {world_size} processes with {batch} samples each do not evenly make up the '
                          f"config's batch of {base} (auto_scale_lr.base_batch_size): {advice}.")
    return base // (batch * world_size * counts)


def keep_batch(cfg: Config, world_size: int) -> int:
    """Change ``cfg`` so that an optimizer step sees ``auto_scale_lr.base_batch_size`` samples; returns the factor.

    An iteration is one forward and backward pass. With a factor of k an optimizer step takes k times as many of them,
    and so do the loop, the learning-rate schedule and the hooks' intervals. What the config accumulates already
    (``optim_wrapper.accumulative_counts``), its schedule counts already.

    Raises:
        ConfigError: the config doesn't say its batch, or it can't be made up.
    """
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not base:
        raise ConfigError('--keep-batch: the config does not say which batch to keep: set '
                          'auto_scale_lr=dict(base_batch_size=...).')
    counts = cfg.optim_wrapper.get('accumulative_counts', 1)
    factor = accumulation(base, cfg.train_dataloader.batch_size, world_size, counts)
    if factor == 1:
        return 1
    cfg.optim_wrapper.accumulative_counts = factor * counts
    stretch(cfg.train_cfg, LOOP_KEYS, factor)
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]:
        stretch(scheduler, SCHEDULE_KEYS, factor)
        if str(scheduler.get('type')).startswith('Exponential') and 'gamma' in scheduler:  # at every iteration
            scheduler.gamma **= 1 / factor
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    for hook in hooks:
        if isinstance(hook, Mapping):
            stretch(hook, ('interval', ), factor)
    return factor


def stretch(section: Any, keys: tuple[str, ...], factor: int) -> None:
    """Multiply the iterations in ``section``; 0 and the absent stay."""
    for key in keys:
        value = section.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            section[key] = value * factor
        elif isinstance(value, (list, tuple)):
            section[key] = [item * factor for item in value]

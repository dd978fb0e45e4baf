"""Which run a work dir belongs to, and whether this one may go on in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimdiff.checkpoint.files import POINTER, list_checkpoints, newest_checkpoint
from slimdiff.checkpoint.same import differences, listed

#: what a resumed run may have otherwise: none of it changes the weights that training arrives at
HARMLESS = (
    'work_dir', 'resume', 'load_from', 'overwrite', 'launcher', 'log_level', 'log_processor', 'experiment_name',
    'trust_config',
    'visualizer*', 'vis_backends*', 'env_cfg*', 'model_wrapper_cfg*', 'compile*', 'default_scope', 'runner_type',
    'val_*', 'test_*', 'train_cfg.max_iters', 'train_cfg.val_*', 'train_cfg.sync_interval', '*dataloader.num_workers',
    '*dataloader.persistent_workers', '*dataloader.pin_memory', '*dataloader.prefetch_factor',
    'model.gradient_checkpointing', 'model.num_steps', 'model.guidance_scale', 'model.sampler*',
    'model.autoencoder.decode_batch', 'train_dataloader.dataset.verify',
    'train_dataloader.dataset.source*', 'model.teacher.cache', 'model.teacher.compile', 'model.teacher.micro_batch',
    # A longer run moves the end of its schedules.
    'param_scheduler*.end', 'param_scheduler*.T_max', 'param_scheduler*.total_iters')


class WorkDirError(ValueError):
    """A work dir with checkpoints that this run must not touch."""


def _training_hooks(config: Mapping[str, Any]) -> list[Any]:
    """Of the hooks, only those that take part in the training's outcome."""
    hooks = [*(config.get('default_hooks') or {}).values(), *(config.get('custom_hooks') or [])]
    return [hook for hook in hooks if isinstance(hook, Mapping) and hook.get('type') == 'EMAHook']


def _relevant(config: Mapping[str, Any], world_size: int) -> dict[str, Any]:
    config = dict(config)
    config['hooks'] = _training_hooks(config)
    for key in ('default_hooks', 'custom_hooks'):
        config.pop(key, None)
    # Two ranks of 32 train as one of 64.
    loader = dict(config.get('train_dataloader') or {})
    if isinstance(loader.get('batch_size'), int):
        loader['batch_size x ranks'] = loader.pop('batch_size') * world_size
        config['train_dataloader'] = loader
    return config


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], old_world: int = 1,
                   new_world: int = 1) -> list[str]:
    """The keys in which two configs train differently, each as ``key: old -> new``."""
    return differences(_relevant(old, old_world), _relevant(new, new_world), HARMLESS)


def check_fresh_start(work_dir: str | Path, config: Mapping[str, Any], world_size: int) -> None:
    """Raise WorkDirError if a run that starts from nothing would write over checkpoints in ``work_dir``."""
    existing = list_checkpoints(work_dir)
    if not existing:
        return
    newest, checkpoint, _ = newest_checkpoint(work_dir)
    count = f'{len(existing)} checkpoint{"s" if len(existing) > 1 else ""} (newest: {existing[0].name})'
    differing: list[str] = []
    if checkpoint is not None:
        meta = checkpoint['meta']
        differing = differing_keys(meta['config'], config, meta['world_size'], world_size)
    if differing:
        raise WorkDirError(f'The work dir {work_dir} belongs to another config: it holds {count}, trained with other '
                           f'values of{listed(differing)}\nNothing was changed. Choose another --work-dir, '
                           'or pass --overwrite to remove its checkpoints and start from scratch.')
    raise WorkDirError(f'The work dir {work_dir} already holds {count} of '
                       f'{"this config" if newest else "a run"}. Nothing was changed. Pass --resume to go on from '
                       'there, choose another --work-dir, or pass --overwrite to remove its checkpoints and start '
                       'from scratch.')


def check_no_later(work_dir: str | Path, iteration: int) -> None:
    """Raise WorkDirError if a run that goes on after ``iteration`` would leave later checkpoints of another history:
    they would count as its newest, for ``max_keep`` and for a later --resume."""
    later = list_checkpoints(work_dir, above=iteration)
    if later:
        raise WorkDirError(f'The work dir {work_dir} holds checkpoints later than iteration {iteration}, up to '
                           f'{later[0].name}. Nothing was changed. Choose another --work-dir, or pass --overwrite to '
                           f'remove {"it" if len(later) == 1 else f"these {len(later)}"} and go on from there.')


def check_resume(path: str | Path, meta: Mapping[str, Any], config: Mapping[str, Any],
                 world_size: int, teacher: str | None = None) -> list[str]:
    """The differences that make a resumed run another one than the checkpoint's; empty if it is the same.

    Raises:
        WorkDirError: a published file, which has weights alone.
    """
    if 'published' in meta:
        raise WorkDirError(f'{path} was published: it has no optimizer or schedule to resume. To start a new run from '
                           'its weights, set load_from in the config.')
    before = meta.get('teacher')
    return differing_keys(meta['config'], config, meta['world_size'], world_size) + (
        differences({'weights of model.teacher': before}, {'weights of model.teacher': teacher})
        if before and teacher else [])


def missing_folders(folder: str | Path) -> list[Path]:
    """Of ``folder`` and the folders above it those that are not there, the innermost first."""
    folder = Path(folder).absolute()
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_traces(log_dir: str | Path | None, folders: list[Path]) -> None:
    """Remove a Runner's folder for logs, and of ``folders`` (:func:`missing_folders`) those that are empty then."""
    if log_dir is not None:
        shutil.rmtree(log_dir, ignore_errors=True)
    for folder in folders:
        with contextlib.suppress(OSError):  # not there, or another process has put something into it
            folder.rmdir()


def remove_run(work_dir: str | Path, above: int = -1) -> list[str]:
    """Remove the checkpoints of a run (not its logs and samples) of iterations ``above`` one; return their names."""
    files = list_checkpoints(work_dir, above)
    # The pointer first: it must not name what is gone.
    (Path(work_dir) / POINTER).unlink(missing_ok=True)
    for file in files:
        file.unlink(missing_ok=True)
    return [file.name for file in files]

"""When checkpoints are written, and what happens if they can't be."""

from __future__ import annotations

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from slimdiff.checkpoint.files import CheckpointWriteError, checkpoint_name, list_checkpoints
from slimdiff.engine.distributed import any_rank
from slimdiff.evaluation.common import is_sharded, takes_part
from slimdiff.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Write ``iter_N.pth`` every ``interval`` iterations, at the end and on Ctrl-C or SIGTERM.

    A full disk does not end training: the error is logged, older checkpoints stay (none is removed before a newer one
    is safe) and the next interval tries again. Only if the *last* one cannot be written, the run ends with an error.
    With gradient accumulation, a checkpoint waits for the end of the window, for it holds no gradients.

    Args:
        interval: iterations between two checkpoints.
        max_keep: how many to keep, the newest; -1 keeps all.

    Raises:
        ValueError: an interval below 1 or a max_keep of 0.
    """

    # After everything that changes the state of an iteration: EMA (NORMAL), schedules (LOW).
    priority = 'VERY_LOW'

    def __init__(self, interval: int = 1000, max_keep: int = 3) -> None:
        if interval < 1 or max_keep == 0 or max_keep < -1:
            raise ValueError(f'CheckpointHook: interval={interval} and max_keep={max_keep}; interval must be at least '
                             '1, and max_keep at least 1 or -1 (keep all).')
        self.interval, self.max_keep = interval, max_keep
        self.saved_at = -1
        self.pending = False
        self.error: CheckpointWriteError | None = None

    def before_train(self, runner: Any) -> None:
        self.saved_at = runner.iter if runner.iter else -1

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = batch_idx + 1
        self.pending |= done % self.interval == 0 or done == runner.max_iters
        wrapper = runner.optim_wrapper
        if self.pending and (not hasattr(wrapper, 'at_update') or wrapper.at_update()):
            self.pending = False
            self.save(runner, done)

    def save(self, runner: Any, done: int) -> None:
        """Write the checkpoint after ``done`` iterations, unless it exists; log a failure."""
        if done == self.saved_at:
            return
        # Hooks may refuse to save a broken state; all ranks ask them.
        runner.call_hook('check_state')
        if not takes_part(runner.model):
            return
        self.error = None
        try:
            runner.save_checkpoint(runner.work_dir, checkpoint_name(done), iteration=done)
        except CheckpointWriteError as error:
            self.error = error
            runner.logger.error(f'{error} Training goes on; the next try is in {self.interval} iterations.')
        failed = self.error is not None
        # Those that wrote nothing must come back for the next try.
        if any_rank(int(failed), next(runner.model.parameters()).device) if is_sharded(runner.model) else failed:
            return
        self.saved_at = done
        if not is_main_process():
            return
        runner.logger.info(f'Saved {checkpoint_name(done)}')
        if self.max_keep > 0:
            for old in list_checkpoints(runner.work_dir)[self.max_keep:]:
                if old.name != checkpoint_name(done):  # beside later ones of another run it is not among the newest
                    old.unlink(missing_ok=True)

    def on_interrupt(self, runner: Any) -> None:
        self.save(runner, runner.iter)
        self._raise()

    def after_train(self, runner: Any) -> None:
        self.save(runner, runner.iter)
        self._raise()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

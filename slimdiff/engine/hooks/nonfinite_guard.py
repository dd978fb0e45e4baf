"""Stop at the first NaN or infinity, before it reaches the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from slimdiff.checkpoint.files import list_checkpoints
from slimdiff.registry import HOOKS


class NonFiniteError(ValueError):
    """The loss, a gradient or an input batch held NaN or infinity; the weights are still good."""


def nonfinite_entries(batch: Any, name: str = '') -> list[str]:
    """Which samples of which tensors of a batch are not finite: ``inputs (samples 0, 3 of 64)``."""
    if isinstance(batch, Mapping):
        return [line for key, value in batch.items() for line in nonfinite_entries(value, str(key))]
    if isinstance(batch, (list, tuple)):
        return [line for i, value in enumerate(batch) for line in nonfinite_entries(value, f'{name}[{i}]')]
    if not isinstance(batch, Tensor) or not batch.is_floating_point() or bool(batch.isfinite().all()):
        return []
    bad = (~batch.isfinite()).reshape(len(batch), -1).any(1).nonzero().flatten().tolist() if batch.dim() else [0]
    more = ', ...' if len(bad) > 8 else ''
    return [f'{name} (samples {", ".join(map(str, bad[:8]))}{more} of {len(batch) if batch.dim() else 1})']


def read_later(flag: Tensor) -> Callable[[], bool]:
    """Start copying a flag to the host; the function that is returned waits for it."""
    if flag.device.type != 'cuda':
        return lambda: bool(flag)
    host = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record()

    def read() -> bool:
        event.synchronize()
        return bool(host)

    return read


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Watch the norm of all gradients before each optimizer step, and the loss after it.

    One number tells: the norm is finite exactly if every gradient is (unless it overflows, which is as bad), and with
    clipping it is computed anyway. On CPU the step is refused at once. On a GPU, reading the norm would make the host
    wait at every iteration; a fused optimizer is told by a tensor on the device to skip the step (as a GradScaler
    does), and the host reads the flag one iteration later.

    The error says whether the batch itself was at fault.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._batch: Any = None
        self._iter = 0
        # (iteration, its batch, whether it was skipped) of a step on a GPU that was not yet checked
        self._unread: tuple[int, Any, Callable[[], bool]] | None = None
        self._handle: Any = None

    def before_train(self, runner: Any) -> None:
        self._runner = runner
        self._handle = runner.optim_wrapper.optimizer.register_step_pre_hook(self._before_step)

    def after_train(self, runner: Any) -> None:
        self.check_state(runner)
        self._handle.remove()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self._iter, self._batch = batch_idx, data_batch

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        # A loss can be NaN with finite gradients, and an accumulation window has no step to watch.
        loss = (outputs or {}).get('loss')
        if isinstance(loss, Tensor) and loss.device.type == 'cpu' and not torch.isfinite(loss):
            self._stop('loss', batch_idx, data_batch)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        norm = self._gradient_norm(optimizer)
        if self._may_defer(optimizer, norm):
            self.check_state(self._runner)
            flag = ~torch.isfinite(norm)
            optimizer.found_inf = flag.float()
            self._unread = (self._iter, self._batch, read_later(flag))
        elif not torch.isfinite(norm):
            self._stop('gradient', self._iter, self._batch)

    def _may_defer(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> bool:
        return norm.device.type == 'cuda' and bool(optimizer.defaults.get('fused'))

    def _gradient_norm(self, optimizer: torch.optim.Optimizer) -> Tensor:
        wrapper = self._runner.optim_wrapper
        if hasattr(wrapper, 'gradient_norm'):
            return wrapper.gradient_norm()
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))

    def check_state(self, runner: Any) -> None:
        """Raise NonFiniteError if a step on the GPU was skipped; also called before a checkpoint is saved."""
        if self._unread is not None:
            (iteration, batch, read), self._unread = self._unread, None
            if read():
                self._stop('gradient', iteration, batch)

    def _stop(self, what: str, iteration: int, batch: Any) -> None:
        runner = self._runner
        found = nonfinite_entries(batch)
        saved = list_checkpoints(runner.work_dir)
        where = f'The last good checkpoint is {saved[0]}; go on from it with --resume.' if saved else \
            'There is no checkpoint yet.'
        if found:
            cause = (f'The input batch itself holds NaN or infinity: {"; ".join(found)}. Look at the data set '
                     '(tools/misc/browse_dataset.py), its files and transforms.')
        else:
            cause = ('The input batch is finite. Try a lower learning rate or a longer warm-up, '
                     'optim_wrapper.clip_grad=dict(max_norm=1.0), or training without --amp.')
        raise NonFiniteError(f'The {what} of iteration {iteration + 1} is NaN or infinite. Training stopped before the '
                             f'weights were changed. {cause} {where}')

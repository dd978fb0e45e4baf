"""Exponential moving average of the weights that are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from slimdiff.engine.sharding import like
from slimdiff.registry import HOOKS


def ema_decay(iteration: int, decay: float) -> float:
    """min(decay, (1 + i) / (10 + i)): short memory first, so that the random start is soon forgotten."""
    return min(decay, (1 + iteration) / (10 + iteration))


@torch.no_grad()
def ema_update(averages: list[Tensor], values: list[Tensor], decay: float) -> None:
    """averages <- decay * averages + (1 - decay) * values, in place, by one fused call."""
    torch._foreach_lerp_(averages, values, 1 - decay)


@HOOKS.register_module()
class EMAHook(Hook):
    """Average the trained modules (``model.trained_modules()``; the whole model if it has no such method).

    A frozen teacher or autoencoder is neither averaged nor stored twice. Floating-point parameters are averaged;
    buffers are copied. Validation, test, sample grids and plots use the averaged weights: they are exchanged with the
    trained ones without copying. In a checkpoint they are under ``ema.state_dict``, with the model's names. With
    accumulated gradients the average moves once for each step of the optimizer.

    Args:
        decay: of the average, after the warm-up :func:`ema_decay`. Half of the weight lies on the last
            0.69 / (1 - decay) iterations.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    priority = 'NORMAL'

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f'EMAHook: decay must lie in [0, 1), got {decay}. (mmengine counts momentum = 1 - decay.)')
        self.decay = decay
        self.names: list[str] = []
        self.swapped = False

    def before_train(self, runner: Any) -> None:
        # After a resume the averages have been loaded.
        if not self.names:
            self._collect(runner.unwrapped_model)

    def _collect(self, model: nn.Module) -> None:
        modules = model.trained_modules() if hasattr(model, 'trained_modules') else {'': model}
        params, buffers = {}, {}
        for prefix, module in modules.items():
            dot = f'{prefix}.' if prefix else ''
            params |= {dot + name: p for name, p in module.named_parameters() if p.requires_grad}
            persistent = module.state_dict(keep_vars=True)
            buffers |= {dot + name: b for name, b in module.named_buffers() if name in persistent}
        self.names, self.values = list(params), list(params.values())
        self.buffer_names, self.buffer_values = list(buffers), list(buffers.values())
        self.averages = [p.detach().clone() for p in self.values]
        self.buffers = [b.detach().clone() for b in self.buffer_values]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        wrapper = getattr(runner, 'optim_wrapper', None)
        if wrapper is not None and not wrapper.should_update():
            return  # gradients are still being accumulated: these weights are in the average
        steps = batch_idx // getattr(wrapper, '_accumulative_counts', 1)
        ema_update(self.averages, self.values, ema_decay(steps, self.decay))
        for mine, value in zip(self.buffers, self.buffer_values):
            mine.copy_(value)

    # ---- exchange -------------------------------------------------------------------------------------------------

    def swap(self) -> None:
        """Exchange averaged and trained weights; a second call undoes it."""
        for averages, values in ((self.averages, self.values), (self.buffers, self.buffer_values)):
            for i, value in enumerate(values):
                if isinstance(value, DTensor):  # FSDP holds the memory, not the parameter
                    kept = value.detach().clone()
                    value.detach().copy_(averages[i])
                    averages[i].copy_(kept)
                else:
                    value.data, averages[i] = averages[i], value.data
        self.swapped = not self.swapped

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averaged weights inside; may be nested."""
        if self.swapped or not self.names:
            yield
            return
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def _swap_to(self, averaged: bool) -> None:
        if self.names and self.swapped != averaged:
            self.swap()

    def before_val_epoch(self, runner: Any) -> None:
        self._swap_to(True)

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._swap_to(False)

    def before_test_epoch(self, runner: Any) -> None:
        self._swap_to(True)

    def after_test_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        self._swap_to(False)

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def before_interrupt(self, runner: Any) -> None:
        """A signal may have come in the middle of a validation."""
        self._swap_to(False)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        if self.names:
            state = dict(zip(self.names, self.averages)) | dict(zip(self.buffer_names, self.buffers))
            checkpoint['ema'] = {'decay': self.decay, 'state_dict': state}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take the averages of a resumed run; a checkpoint without any starts them at its weights."""
        self._collect(runner.unwrapped_model)
        state = checkpoint.get('ema', {}).get('state_dict', {})
        for names, mine in ((self.names, self.averages), (self.buffer_names, self.buffers)):
            for name, tensor in zip(names, mine):
                if name in state:
                    tensor.copy_(like(state[name], tensor))


def find_ema(runner: Any) -> EMAHook | None:
    """The EMAHook of a runner, if it has one."""
    return next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)


@contextmanager
def ema_weights(runner: Any) -> Iterator[None]:
    """The runner's model has its averaged weights inside, if it keeps some."""
    hook = find_ema(runner)
    if hook is None:
        yield
    else:
        with hook.averaged():
            yield

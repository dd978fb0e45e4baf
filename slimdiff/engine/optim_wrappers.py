"""mmengine's OptimWrapper without its per-iteration costs, and with bf16 autocast on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from slimdiff.functional.precision import warn_of_slow_bf16


def _whole(norm: Tensor) -> Tensor:
    """The norm over all processes, of gradients that each has a part of."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@OPTIM_WRAPPERS.register_module()
class SlimOptimWrapper(OptimWrapper):
    """OptimWrapper that keeps the gradient norm as a tensor in :attr:`grad_norm`.

    mmengine's reads it back every iteration, for which a GPU must finish its work, and appends it to a numpy array
    that it copies whole each time. Gradient clipping (``clip_grad``) and accumulation (``accumulative_counts``) are
    as in mmengine.
    """

    autocast_dtype: torch.dtype | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.grad_norm: Tensor | None = None
        self._parameters = [p for group in self.optimizer.param_groups for p in group['params'] if p.requires_grad]

    def _clip_grad(self) -> None:
        parameters = [p for p in self._parameters if p.grad is not None]
        if parameters:
            self.grad_norm = _whole(self.clip_func(parameters, **self.clip_grad_kwargs))

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients; that of before the clipping if they were clipped. Call it before the step."""
        if not (self.clip_grad_kwargs and self.grad_name == 'grad_norm'):
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            norms = torch._foreach_norm(gradients) if gradients else [torch.zeros(())]
            self.grad_norm = _whole(torch.linalg.vector_norm(torch.stack(norms)))
        return self.grad_norm

    def at_update(self) -> bool:
        """True between accumulation windows: no gradient is held that a checkpoint would lose."""
        return self.should_update()


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(SlimOptimWrapper):
    """Forward pass in bfloat16 autocast, on CPU and GPU; weights, gradients and optimizer stay float32.

    bfloat16 has float32's range, so there is no loss scaling.
    """

    autocast_dtype = torch.bfloat16

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        warn_of_slow_bf16(self._parameters[0].device)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        device = self._parameters[0].device.type
        with super().optim_context(model), torch.autocast(device, self.autocast_dtype):
            yield

"""Where bfloat16 is worth its loss of precision."""

from __future__ import annotations

import warnings

import torch


def has_bf16_products(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 in hardware, or at least in PyTorch's own fast kernels.

    On a CPU without AVX-512 (or ARM's bf16 instructions) PyTorch's bfloat16 convolutions fall back to a reference loop
    that takes about ten times as long as float32.
    """
    device = torch.device(device)
    if device.type == 'cpu':
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return True


def warn_of_slow_bf16(device: torch.device | str) -> None:
    """Warn if autocast to bfloat16 would only cost time on a device."""
    if not has_bf16_products(device):
        warnings.warn(f'{device} has no fast bfloat16 (a CPU lacks AVX-512, or a GPU is older than Ampere): float32 '
                      '(without --amp) is faster.', stacklevel=2)

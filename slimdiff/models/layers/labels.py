"""Class labels as a network takes them."""

from __future__ import annotations

import torch
from torch import Tensor


def labels_or_null(class_labels: Tensor | None, timestep: Tensor, null: int) -> Tensor:
    """The labels (N,), or the null class for each of the timesteps (N,) if there are none.

    Raises:
        ValueError: a label out of range (looked for on the CPU only: on a GPU it would wait for the device).
    """
    if class_labels is None:
        return torch.full_like(timestep, null, dtype=torch.long)
    if class_labels.device.type == 'cpu' and not torch.compiler.is_compiling() and class_labels.numel():
        low, high = int(class_labels.min()), int(class_labels.max())
        if low < 0 or high > null:
            raise ValueError(f'class_labels must lie in 0..{null - 1} (or {null}, the null class), '
                             f'got values from {low} to {high}.')
    return class_labels

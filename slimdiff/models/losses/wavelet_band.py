"""Distillation of wavelet bands, to compare the spectrum-aware loss with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from slimdiff.functional.wavelet import check_wavelet, dwt2
from slimdiff.models.losses.distillation import DistillationLoss
from slimdiff.registry import LOSSES


@LOSSES.register_module()
class WaveletBandLoss(DistillationLoss):
    """sum_b w_b mean |DWT_b X_T - DWT_b P X_S|: the bands of one wavelet level, each with its weight.

    By default the three high-frequency bands alone, in the first power, as wavelet knowledge distillation does
    (Zhang et al. 2022).

    Args:
        tap, weight, relative: see :class:`~slimdiff.models.losses.distillation.DistillationLoss`.
        wavelet: a discrete wavelet of PyWavelets.
        band_weights: of cA, cH, cV, cD.

    Raises:
        ValueError: unknown wavelet; not four weights, a negative one, or all of them 0; a tap of odd size.
    """

    def __init__(self, tap: str | Sequence[str] | Mapping[str, str] = 'output', weight: float = 0.1,
                 relative: bool = False, wavelet: str = 'haar',
                 band_weights: Sequence[float] = (0.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__(tap, weight, relative)
        if len(band_weights) != 4 or min(band_weights) < 0 or max(band_weights) == 0:
            raise ValueError(f'WaveletBandLoss: band_weights={list(band_weights)} must be four numbers of at least 0 '
                             '(cA, cH, cV, cD), not all 0.')
        self.wavelet = check_wavelet(wavelet)
        self.band_weights = tuple(band_weights)

    def compare(self, student: Tensor, teacher: Tensor, x0: Tensor) -> Tensor:
        bands = dwt2(student - teacher, self.wavelet).abs().mean((0, 2, 3, 4))  # (4,)
        return (bands * torch.tensor(self.band_weights).to(bands)).sum()

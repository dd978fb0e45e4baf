"""Spectrum-aware distillation: what the input holds little of counts most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from slimdiff.functional.spectral_weight import spectral_weight, weighted_spectral_error
from slimdiff.models.losses.distillation import DistillationLoss
from slimdiff.registry import LOSSES
from slimdiff.spelling import did_you_mean

SOURCES = ('input', 'teacher')


@LOSSES.register_module()
class SpectralLoss(DistillationLoss):
    """mean w |F X_T - F P X_S|^2 with w = |F x0|^alpha (Yang et al. 2023; lambda_f, 0.1 by default).

    F is the orthonormal 2-D DFT. Natural images hold little high frequency, so with alpha = -1 it is weighted up:
    small networks lose it first. What the paper leaves open is settled in
    :func:`~slimdiff.functional.spectral_weight.spectral_weight`.

    Args:
        tap, weight, relative: see :class:`~slimdiff.models.losses.distillation.DistillationLoss`.
        alpha: exponent; 0 makes the loss equal to ``SpatialLoss`` (Parseval).
        floor: |F x0| is not taken below this fraction of its root mean square.
        normalize: scale the weights of each sample to mean 1.
        source: 'input' takes the weight from the clean input, resized to the tap (the paper); 'teacher' from the
            teacher's own map, which weighs each tap by its own spectrum.

    Raises:
        ValueError: a negative weight, a floor that is not positive, an unknown source.
    """

    def __init__(self, tap: str | Sequence[str] | Mapping[str, str] = 'output', weight: float = 0.1,
                 relative: bool = False, alpha: float = -1.0, floor: float = 0.01, normalize: bool = True,
                 source: str = 'input') -> None:
        super().__init__(tap, weight, relative)
        if floor <= 0:
            raise ValueError(f'SpectralLoss: floor must be positive, got {floor}; 0.01 is the default.')
        if source not in SOURCES:
            raise ValueError(f"SpectralLoss: source='{source}' is unknown.{did_you_mean(source, SOURCES)} "
                             f"Choose one of {', '.join(SOURCES)}.")
        self.alpha, self.floor, self.normalize, self.source = alpha, floor, normalize, source

    def compare(self, student: Tensor, teacher: Tensor, x0: Tensor) -> Tensor:
        weight = spectral_weight(x0 if self.source == 'input' else teacher, self.alpha, self.floor, self.normalize)
        return weighted_spectral_error(student - teacher, weight)

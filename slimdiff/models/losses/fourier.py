"""The plain FFT loss of image restoration, to compare the spectrum-aware one with."""

from __future__ import annotations

import torch
from torch import Tensor

from slimdiff.functional.spectral_weight import half_spectrum_counts
from slimdiff.models.losses.distillation import DistillationLoss
from slimdiff.registry import LOSSES


@LOSSES.register_module()
class FourierLoss(DistillationLoss):
    """mean |F X_T - F P X_S|, the modulus of the complex difference, without weights.

    Its square would be the spatial loss again (Parseval); the first power (as in Cho et al. 2021, MIMO-UNet, Eq. 3,
    there on real and imaginary part) pulls as hard on small differences, which high frequencies have, as on large.

    Arguments and errors: :class:`~slimdiff.models.losses.distillation.DistillationLoss`.
    """

    def compare(self, student: Tensor, teacher: Tensor, x0: Tensor) -> Tensor:
        difference = torch.view_as_real(torch.fft.rfft2(student - teacher, norm='ortho'))
        # The modulus has no gradient at zero; a tiny constant gives it one, and is taken off again.
        modulus = (difference.square().sum(-1) + 1e-16).sqrt() - 1e-8
        return (modulus * half_spectrum_counts(student.shape[-1], modulus)).sum() / student.numel()

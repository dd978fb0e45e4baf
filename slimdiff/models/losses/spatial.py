"""Spatial distillation: the plain squared error."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from slimdiff.models.losses.distillation import DistillationLoss
from slimdiff.registry import LOSSES


@LOSSES.register_module()
class SpatialLoss(DistillationLoss):
    """mean |X_T - P X_S|^2: the spatial term of spectral diffusion (Yang et al. 2023; lambda_s, 0.1 by default).

    Arguments and errors: :class:`~slimdiff.models.losses.distillation.DistillationLoss`.
    """

    def compare(self, student: Tensor, teacher: Tensor, x0: Tensor) -> Tensor:
        return F.mse_loss(student, teacher)

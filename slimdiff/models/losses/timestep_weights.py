"""Weights of the denoising loss over timesteps, one registered class for each rule.

All are functions of the signal-to-noise ratio ``snr = alpha^2 / sigma^2`` at t. The same error counts differently in
the prediction types; :func:`epsilon_equivalent` converts, so each rule is written once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimdiff.functional.prediction import check_prediction_type
from slimdiff.registry import LOSSES


def epsilon_equivalent(snr: Tensor, prediction_type: str) -> Tensor:
    """The factor k with ``|eps error|^2 = k |error of the prediction type|^2``.

    From x_t = alpha x0 + sigma eps at fixed x_t: 1 for eps, snr for x0, alpha^2 = snr / (1 + snr) for v, and for the
    velocity of a flow alpha^2 = (r / (1 + r))^2 with r = sqrt(snr) = alpha / sigma and alpha + sigma = 1.
    """
    if prediction_type == 'epsilon':
        return torch.ones_like(snr)
    if prediction_type == 'sample':
        return snr
    if prediction_type == 'v_prediction':
        return snr / (1 + snr)
    check_prediction_type(prediction_type)
    return 1 / (1 + snr.rsqrt())**2  # of a flow; also without noise, where snr is infinite


@LOSSES.register_module()
class UniformWeight:
    """Every timestep counts alike in the prediction type's own space (L_simple, Ho et al. 2020, Eq. 14)."""

    def __call__(self, snr: Tensor, prediction_type: str) -> Tensor:
        return torch.ones_like(snr)


@LOSSES.register_module()
class MinSNRWeight:
    """Min-SNR-gamma (Hang et al. 2023, Eq. 5-7): min(snr, gamma) on the x0 error.

    Args:
        gamma: the cap; 5 in the paper.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f'gamma must be positive, got {gamma}.')
        self.gamma = gamma

    def __call__(self, snr: Tensor, prediction_type: str) -> Tensor:
        # min(snr, gamma) / snr, written so that snr = 0 (zero terminal SNR) gives 1.
        return epsilon_equivalent(snr, prediction_type) * (self.gamma / snr).clamp(max=1)


@LOSSES.register_module()
class P2Weight:
    """P2 weighting (Choi et al. 2022, Eq. 8): 1 / (k + snr)^gamma on the eps error.

    Args:
        gamma: strength; the paper uses 0.5 and 1.
        k: 1 in the paper.
    """

    def __init__(self, gamma: float = 1.0, k: float = 1.0) -> None:
        if gamma < 0 or k <= 0:
            raise ValueError(f'gamma must be at least 0 and k positive, got gamma={gamma}, k={k}.')
        self.gamma, self.k = gamma, k

    def __call__(self, snr: Tensor, prediction_type: str) -> Tensor:
        return epsilon_equivalent(snr, prediction_type) / (self.k + snr)**self.gamma


@LOSSES.register_module()
class SD3Weight:
    """Weights on the velocity error of rectified flow (Esser et al. 2024, section 3.1), as diffusers has them.

    Args:
        scheme: ``'cosmap'``, 2 / (pi (1 - 2 s + 2 s^2)), or ``'sigma_sqrt'``, 1 / s^2, at noise level s.
    """

    def __init__(self, scheme: str = 'cosmap') -> None:
        if scheme not in ('cosmap', 'sigma_sqrt'):
            raise ValueError(f"SD3Weight: scheme='{scheme}' is unknown; choose cosmap or sigma_sqrt.")
        self.scheme = scheme

    def __call__(self, snr: Tensor, prediction_type: str) -> Tensor:
        from diffusers.training_utils import compute_loss_weighting_for_sd3
        if prediction_type != 'flow_prediction':
            raise ValueError(f'SD3Weight is for rectified flow; this model predicts {prediction_type}. Take '
                             'MinSNRWeight, P2Weight or UniformWeight.')
        return compute_loss_weighting_for_sd3(self.scheme, 1 / (1 + snr.sqrt()))

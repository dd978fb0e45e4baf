"""Output preconditioning: what a linear denoiser knows already, the network need not learn.

Write ``x_t = sqrt(a) x0 + sqrt(b) eps`` with ``a``, ``b`` the powers of signal and noise, and model x0 as white with
variance ``s**2`` (``s = sigma_data``). The best *linear* guess of the target from x_t is the Wiener filter of a flat
spectrum (SD supplement, section 1, with the missing sqrt(b) of Eq. 10 put in):

    eps: sqrt(b) / d * x_t                         x0: sqrt(a) s^2 / d * x_t
    v: sqrt(a b) (1 - s^2) / d * x_t               flow: (sqrt(b) - sqrt(a) s^2) / d * x_t

with ``d = a s^2 + b`` the variance of x_t. What is left has variance ``a s^2 / d``, ``b s^2 / d``, ``s^2 / d`` (for v,
where a + b = 1) and ``s^2 / d`` (for a flow, where sqrt(a) + sqrt(b) = 1): the network predicts it at unit variance,
from an input at unit variance. At s = 1 and for eps this is v-prediction (Salimans & Ho 2022), and in the
variance-exploding notation it is EDM's preconditioning (Karras et al. 2022, table 1). As a -> 0 the eps target is exact
whatever the network says, so small networks keep no low-frequency error at high noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.arguments import plain
from slimdiff.functional.prediction import check_prediction_type
from slimdiff.functional.process import NoiseProcess
from slimdiff.models.backbones.adapt import AdaptedBackbone
from slimdiff.sampling.process import noise_process


def preconditioning_coefficients(signal: Tensor, noise: Tensor, prediction_type: str,
                                 sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``c_in, c_skip, c_out``, each (T,), for ``c_skip * x_t + c_out * net(c_in * x_t)``.

    Args:
        signal, noise: (T,), alpha^2 and sigma^2 of the noise process.
        prediction_type: 'epsilon', 'sample', 'v_prediction' or 'flow_prediction' (diffusers' names).
        sigma_data: standard deviation of the clean data (images in [-1, 1]: about 0.5).

    Raises:
        ValueError: unknown prediction type, or ``sigma_data <= 0``.
    """
    if not sigma_data > 0:
        raise ValueError(f'sigma_data must be positive, got {sigma_data}.')
    a, b = signal.double(), noise.double()
    s2 = sigma_data**2
    d = a * s2 + b
    if prediction_type == 'epsilon':
        c_skip, c_out = b.sqrt() / d, (a * s2 / d).sqrt()
    elif prediction_type == 'sample':
        c_skip, c_out = a.sqrt() * s2 / d, (b * s2 / d).sqrt()
    elif prediction_type == 'v_prediction':
        c_skip, c_out = (a * b).sqrt() * (1 - s2) / d, (s2 / d).sqrt()
    else:
        check_prediction_type(prediction_type)
        c_skip, c_out = (b.sqrt() - a.sqrt() * s2) / d, (s2 / d).sqrt()
    return d.rsqrt(), c_skip, c_out


class Preconditioning(nn.Module):
    """Tables of :func:`preconditioning_coefficients`, looked up per sample; between whole timesteps they interpolate.

    Args:
        process: that the network is trained with.
        prediction_type, sigma_data: see the function.
    """

    def __init__(self, process: NoiseProcess, prediction_type: str, sigma_data: float) -> None:
        super().__init__()
        # Up to T itself, which is a timestep of a flow; discrete processes repeat their last.
        powers = process.powers(process.timesteps(torch.arange(process.num_train_timesteps + 1.0)))
        # Plain attribute: a buffer would be rounded by `.to(torch.bfloat16)` and would enter the state dict.
        self.table = torch.stack(preconditioning_coefficients(*powers, prediction_type, sigma_data)).float()

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_in, c_skip, c_out as (N, 1, 1, 1) float32 for timesteps (N,)."""
        if self.table.device != timestep.device:
            self.table = self.table.to(timestep.device)
        last = self.table.shape[1] - 1
        t = timestep.float().clamp(0, last)
        low = t.floor().long()
        columns = torch.lerp(self.table[:, low], self.table[:, (low + 1).clamp(max=last)], t - low)  # (3, N)
        return tuple(columns[:, :, None, None, None])


class PreconditionedBackbone(AdaptedBackbone):
    """``c_skip * x_t + c_out * network(c_in * x_t)`` around any network.

    It offers what the network offers, at the same names: stages, widths, features to reuse. The coefficients are in
    float32 whatever the precision of the network is, which therefore wants x_t in float32.

    Args:
        network: any backbone.
        arguments: see :class:`~slimdiff.models.backbones.adapt.AdaptedBackbone`.
        preconditioning: ``dict(schedule=dict(...), prediction_type=..., sigma_data=...)``; ``schedule`` takes
            diffusers' words (``num_train_timesteps``, ``beta_schedule``, ``beta_start``, ``beta_end``), or those of a
            flow (:mod:`slimdiff.sampling.process`).
    """

    own_keys = ('preconditioning', )

    def __init__(self, network: nn.Module, arguments: Mapping[str, Any] | None = None, *,
                 preconditioning: Mapping[str, Any], **own: Any) -> None:
        preconditioning = plain(dict(preconditioning))
        super().__init__(network, arguments, preconditioning=preconditioning, **own)
        self.precondition = Preconditioning(noise_process(preconditioning['schedule']),
                                            preconditioning['prediction_type'], preconditioning['sigma_data'])

    def around(self, network: Callable[[Tensor], Tensor], sample: Tensor, timestep: Tensor) -> Tensor:
        c_in, c_skip, c_out = self.precondition(timestep)
        x = network((sample * c_in).to(self.dtype))
        return (c_skip * sample + c_out * x).to(sample.dtype)

    def rewrapped(self, network: nn.Module) -> PreconditionedBackbone:
        wrapped = type(self)(network, **self._own_size(), preconditioning=self.config.preconditioning)
        wrapped.precondition = copy.deepcopy(self.precondition)
        return wrapped


# The path that exported folders name; it will not move.
PreconditionedBackbone.__module__ = 'slimdiff'

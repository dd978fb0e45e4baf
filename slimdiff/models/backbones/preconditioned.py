"""Output preconditioning: what a linear denoiser knows already, the network need not learn.

Write ``x_t = sqrt(a) x0 + sqrt(1-a) eps`` with ``a = alphas_cumprod[t]``, and model x0 as white with variance
``s**2`` (``s = sigma_data``). The best *linear* guess of the target from x_t is the Wiener filter of a flat spectrum
(SD supplement, section 1, with the missing sqrt(1-a) of Eq. 10 put in):

    eps: sqrt(1-a) / d * x_t          x0: sqrt(a) s^2 / d * x_t         v: sqrt(a (1-a)) (1 - s^2) / d * x_t

with ``d = a s^2 + 1 - a`` the variance of x_t. What is left has variance ``a s^2 / d``, ``(1-a) s^2 / d`` and
``s^2 / d``: the network predicts it at unit variance, from an input at unit variance. At s = 1 and for eps this is
v-prediction (Salimans & Ho 2022), and in the variance-exploding notation it is EDM's preconditioning (Karras et al.
2022, table 1). As a -> 0 the eps target is exact whatever the network says, so small networks keep no low-frequency
error at high noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.arguments import plain
from slimdiff.functional.process import VariancePreserving
from slimdiff.models.backbones.adapt import AdaptedBackbone
from slimdiff.sampling.process import FLOW, alphas_of


def preconditioning_coefficients(alphas_cumprod: Tensor, prediction_type: str,
                                 sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``c_in, c_skip, c_out``, each (T,), for ``c_skip * x_t + c_out * net(c_in * x_t)``.

    Args:
        alphas_cumprod: (T,), in [0, 1].
        prediction_type: 'epsilon', 'sample' or 'v_prediction' (diffusers' names).
        sigma_data: standard deviation of the clean data (images in [-1, 1]: about 0.5).

    Raises:
        ValueError: unknown prediction type, or ``sigma_data <= 0``.
    """
    if not sigma_data > 0:
        raise ValueError(f'sigma_data must be positive, got {sigma_data}.')
    a = alphas_cumprod.double()
    s2 = sigma_data**2
    d = a * s2 + 1 - a
    if prediction_type == 'epsilon':
        c_skip, c_out = (1 - a).sqrt() / d, (a * s2 / d).sqrt()
    elif prediction_type == 'sample':
        c_skip, c_out = a.sqrt() * s2 / d, ((1 - a) * s2 / d).sqrt()
    elif prediction_type == 'v_prediction':
        c_skip, c_out = (a * (1 - a)).sqrt() * (1 - s2) / d, (s2 / d).sqrt()
    else:
        raise ValueError(f"prediction_type '{prediction_type}' is unknown; "
                         f"choose one of {', '.join(VariancePreserving.prediction_types)}.")
    return d.rsqrt(), c_skip, c_out


def flow_preconditioning_coefficients(s: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """``c_in, c_skip, c_out`` for the velocity eps - x0 of rectified flow, x_t = (1 - s) x0 + s eps.

    The same derivation: with d = (1-s)^2 sigma_data^2 + s^2 the variance of x_t, the best linear guess of the velocity
    is (s - (1-s) sigma_data^2) / d * x_t, and what is left has the variance sigma_data^2 / d.

    Args:
        s: noise levels, any shape, in [0, 1].
    """
    s = s.double()
    s2 = sigma_data**2
    d = (1 - s)**2 * s2 + s**2
    return d.rsqrt(), (s - (1 - s) * s2) / d, sigma_data * d.rsqrt()


class Preconditioning(nn.Module):
    """Tables of :func:`preconditioning_coefficients`, looked up per sample; float timesteps interpolate.

    Args:
        alphas_cumprod: (T,) of the noise schedule that the network is trained with.
        prediction_type, sigma_data: see the function.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str, sigma_data: float) -> None:
        super().__init__()
        # Plain attribute: a buffer would be rounded by `.to(torch.bfloat16)` and would enter the state dict.
        self.table = torch.stack(preconditioning_coefficients(alphas_cumprod, prediction_type, sigma_data)).float()

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_in, c_skip, c_out as (N, 1, 1, 1) float32 for timesteps (N,)."""
        if self.table.device != timestep.device:
            self.table = self.table.to(timestep.device)
        last = self.table.shape[1] - 1
        t = timestep.float().clamp(0, last)
        low = t.floor().long()
        columns = torch.lerp(self.table[:, low], self.table[:, (low + 1).clamp(max=last)], t - low)  # (3, N)
        return tuple(columns[:, :, None, None, None])


class FlowPreconditioning(nn.Module):
    """:func:`flow_preconditioning_coefficients` at real timesteps.

    Args:
        num_train_timesteps: T; a network of diffusers sees t = T s.
        sigma_data: see the function.
    """

    def __init__(self, num_train_timesteps: int, sigma_data: float) -> None:
        super().__init__()
        self.num_train_timesteps, self.sigma_data = num_train_timesteps, sigma_data

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_in, c_skip, c_out as (N, 1, 1, 1) float32 for timesteps (N,)."""
        found = flow_preconditioning_coefficients(timestep / self.num_train_timesteps, self.sigma_data)
        return tuple(value.float()[:, None, None, None] for value in found)


def make_preconditioning(schedule: Mapping[str, Any], prediction_type: str, sigma_data: float) -> nn.Module:
    """The coefficients of a network by timestep, for a process as :func:`~slimdiff.sampling.process_of` gives it."""
    if schedule.get('process') == FLOW:
        return FlowPreconditioning(schedule['num_train_timesteps'], sigma_data)
    return Preconditioning(alphas_of(schedule), prediction_type, sigma_data)


class PreconditionedBackbone(AdaptedBackbone):
    """``c_skip * x_t + c_out * network(c_in * x_t)`` around any network.

    It offers what the network offers, at the same names: stages, widths, features to reuse. The coefficients are in
    float32 whatever the precision of the network is, which therefore wants x_t in float32.

    Args:
        network: any backbone.
        arguments: see :class:`~slimdiff.models.backbones.adapt.AdaptedBackbone`.
        preconditioning: ``dict(schedule=dict(...), prediction_type=..., sigma_data=...)``; ``schedule`` takes
            diffusers' words (``num_train_timesteps``, ``beta_schedule``, ``beta_start``, ``beta_end``).
    """

    own_keys = ('preconditioning', )

    def __init__(self, network: nn.Module, arguments: Mapping[str, Any] | None = None, *,
                 preconditioning: Mapping[str, Any]) -> None:
        preconditioning = plain(dict(preconditioning))
        super().__init__(network, arguments, preconditioning=preconditioning)
        self.precondition = make_preconditioning(**preconditioning)

    def around(self, network: Callable[[Tensor], Tensor], sample: Tensor, timestep: Tensor) -> Tensor:
        c_in, c_skip, c_out = self.precondition(timestep)
        x = network((sample * c_in).to(self.dtype))
        return (c_skip * sample + c_out * x).to(sample.dtype)

    def rewrapped(self, network: nn.Module) -> PreconditionedBackbone:
        wrapped = type(self)(network, preconditioning=self.config.preconditioning)
        wrapped.precondition = copy.deepcopy(self.precondition)
        return wrapped


# The path that exported folders name; it will not move.
PreconditionedBackbone.__module__ = 'slimdiff'

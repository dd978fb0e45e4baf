"""The gate of wavelet-gated resampling: one weight per sample, band and channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.functional.wavelet_gate import spatial_mean
from slimdiff.models.layers.channels import Axes, Channels


class BandGate(nn.Module):
    """gates = sigmoid(W2 SiLU(W1 mean(x))), (N, ``channels``, H, W) -> (N, 4, ``band_channels``), in (0, 1).

    "Diffusion Probabilistic Model Made Slim" (CVPR 2023), section 4.2. A squeeze-and-excitation over the four bands
    without biases. It knows the timestep only through x. To record the gates over a run, put a forward hook here::

        handle = resampler.gate.register_forward_hook(lambda module, inputs, gates: seen.append(gates))

    Args:
        channels: of x.
        band_channels: of each band to be gated.
        hidden: width between the two linear layers.

    Raises:
        ValueError: ``hidden`` below 1.
    """

    def __init__(self, channels: int, band_channels: int, hidden: int = 4) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f'hidden: got {hidden}; the gate needs a hidden width of at least 1 (the paper has 4).')
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, 4 * band_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gates = torch.sigmoid(self.expand(F.silu(self.reduce(spatial_mean(x)))))
        return gates.unflatten(1, (4, -1))

    @staticmethod
    def channel_axes(stream: Channels, bands: Channels) -> dict[str, Axes]:
        """Of x, and of the gates as (4 * ``band_channels``): :mod:`slimdiff.models.layers.channels`."""
        return {'reduce.weight': (None, stream), 'expand.weight': (bands, None)}

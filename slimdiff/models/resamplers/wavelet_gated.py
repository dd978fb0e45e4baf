"""Wavelet-gated resampling, the down- and up-samplers of "Diffusion Probabilistic Model Made Slim" (CVPR 2023)."""

from __future__ import annotations

from torch import Tensor, nn

from slimdiff.functional.wavelet import check_even, check_wavelet, idwt2, is_haar
from slimdiff.functional.wavelet_gate import gated_bands, gated_projection, gated_sum, projection_folds
from slimdiff.models.layers.channels import Axes, Channels, affine, prefixed
from slimdiff.models.layers.checks import require_divisible
from slimdiff.models.resamplers.gate import BandGate
from slimdiff.registry import RESAMPLERS
from slimdiff.spelling import did_you_mean

COMBINES = ('concat', 'sum')


@RESAMPLERS.register_module()
class WaveletGatedDown(nn.Module):
    """Wavelet transform whose bands are weighted per sample and channel by a gate (section 4.2).

    Args:
        channels: in and out.
        wavelet: a discrete wavelet of PyWavelets.
        combine: 'concat' joins the gated bands (cA, cH, cV, cD) by a 1x1 convolution 4C -> C, as the authors' code
            does; 'sum' adds them up, as the paper's equation does, and has no weights but the gate's.
        hidden: hidden width of the gate.

    Raises:
        ValueError: an unknown wavelet or ``combine``; in ``forward``, an odd height or width.
    """

    def __init__(self, channels: int, wavelet: str = 'haar', combine: str = 'concat', hidden: int = 4) -> None:
        super().__init__()
        if combine not in COMBINES:
            raise ValueError(f"combine: got '{combine}'.{did_you_mean(combine, COMBINES)} Allowed: "
                             "'concat' (with a 1x1 convolution) or 'sum'.")
        self.wavelet = check_wavelet(wavelet)
        self.combine = combine
        self.gate = BandGate(channels, channels, hidden)
        if combine == 'concat':
            self.project = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_even(x, 'WaveletGatedDown input')
        gates = self.gate(x)  # (N, 4, C)
        if self.combine == 'sum':
            return gated_sum(x, gates, self.wavelet)
        if is_haar(self.wavelet) and projection_folds(x, self.project.out_channels):
            return gated_projection(x, gates, self.project.weight, self.project.bias)
        return self.project(gated_bands(x, gates, self.wavelet).flatten(1, 2))

    def channel_axes(self, stream: Channels) -> dict[str, Axes]:
        """Four bands of all channels are gated, and joined if they are."""
        bands = stream.times(4)
        return prefixed('gate', self.gate.channel_axes(stream, bands)) | (
            affine('project', stream, bands) if self.combine == 'concat' else {})

    def extra_repr(self) -> str:
        return f"wavelet='{self.wavelet}', combine='{self.combine}'"


@RESAMPLERS.register_module()
class WaveletGatedUp(nn.Module):
    """Four groups of C/4 channels, each weighted by the gate, are the bands of an inverse transform; 1x1 conv C/4 -> C.

    Args:
        channels: in and out, a multiple of 4.
        wavelet: a discrete wavelet of PyWavelets.
        hidden: hidden width of the gate.

    Raises:
        ValueError: channels that four bands don't divide, or an unknown wavelet.
    """

    #: what comes in is four bands, also at a smaller width
    input_parts = 4

    def __init__(self, channels: int, wavelet: str = 'haar', hidden: int = 4) -> None:
        super().__init__()
        require_divisible(type(self).__name__, channels, 4, 'wavelet bands')
        self.wavelet = check_wavelet(wavelet)
        self.gate = BandGate(channels, channels // 4, hidden)
        self.project = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gate(x)  # (N, 4, C/4)
        bands = x.unflatten(1, (4, -1)) * gates[..., None, None].to(x.dtype)
        return self.project(idwt2(bands, self.wavelet))

    def channel_axes(self, stream: Channels) -> dict[str, Axes]:
        """The parts of the input are the bands, and have a gate each."""
        return prefixed('gate', self.gate.channel_axes(stream, stream)) | affine(
            'project', stream, Channels(stream.parts[:1]))

    def extra_repr(self) -> str:
        return f"wavelet='{self.wavelet}'"

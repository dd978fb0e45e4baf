"""Down- and up-samplers: ``cls(channels, **own)``, (N, C, H, W) -> (N, C, H/2, W/2) or (N, C, 2H, 2W)."""

from slimdiff.models.resamplers.convolution import ConvDown, NearestConvUp
from slimdiff.models.resamplers.gate import BandGate
from slimdiff.models.resamplers.pooling import AvgPoolDown, NearestUp
from slimdiff.models.resamplers.shuffle import PixelShuffleUp, PixelUnshuffleDown
from slimdiff.models.resamplers.wavelet import WaveletDown, WaveletUp
from slimdiff.models.resamplers.wavelet_gated import WaveletGatedDown, WaveletGatedUp

__all__ = [
    'AvgPoolDown', 'BandGate', 'ConvDown', 'NearestConvUp', 'NearestUp', 'PixelShuffleUp', 'PixelUnshuffleDown',
    'WaveletDown', 'WaveletGatedDown', 'WaveletGatedUp', 'WaveletUp',
]

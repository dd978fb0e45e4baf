"""Losses and loss weights."""

from slimdiff.models.losses.distillation import DistillationLoss
from slimdiff.models.losses.fourier import FourierLoss
from slimdiff.models.losses.spatial import SpatialLoss
from slimdiff.models.losses.spectral import SpectralLoss
from slimdiff.models.losses.timestep_weights import (
    MinSNRWeight,
    P2Weight,
    SD3Weight,
    UniformWeight,
    epsilon_equivalent,
)
from slimdiff.models.losses.wavelet_band import WaveletBandLoss

__all__ = ['DistillationLoss', 'FourierLoss', 'MinSNRWeight', 'P2Weight', 'SD3Weight', 'SpatialLoss',
           'SpectralLoss', 'UniformWeight', 'WaveletBandLoss', 'epsilon_equivalent']

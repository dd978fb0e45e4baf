"""Losses and loss weights."""

from slimdiff.models.losses.timestep_weights import (
    MinSNRWeight,
    P2Weight,
    UniformWeight,
    epsilon_equivalent,
    signal_to_noise,
)

__all__ = ['MinSNRWeight', 'P2Weight', 'UniformWeight', 'epsilon_equivalent', 'signal_to_noise']

"""The denoising loop, guidance and schedulers. Networks come in as functions, so nothing here knows a UNet."""

from slimdiff.sampling.denoise import denoise, guided, image_generators, initial_noise, mix_seed
from slimdiff.sampling.schedulers import build_scheduler

__all__ = ['build_scheduler', 'denoise', 'guided', 'image_generators', 'initial_noise', 'mix_seed']

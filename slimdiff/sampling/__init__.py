"""The denoising loop, guidance, schedulers, step allocations. Networks come in as functions: no UNet is known here."""

from slimdiff.sampling.allocation import Action, Reuse, Run, Segment, StepAllocation
from slimdiff.sampling.denoise import denoise, guided, image_generators, initial_noise, mix_seed
from slimdiff.sampling.schedulers import build_scheduler

__all__ = ['Action', 'Reuse', 'Run', 'Segment', 'StepAllocation', 'build_scheduler', 'denoise', 'guided',
           'image_generators', 'initial_noise', 'mix_seed']

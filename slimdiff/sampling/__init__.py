"""The denoising loop, guidance, schedulers, step allocations. Networks come in as functions: no UNet is known here."""

from slimdiff.sampling.actions import Action, Reuse, Run
from slimdiff.sampling.allocation import Segment, StepAllocation
from slimdiff.sampling.denoise import denoise, guided, image_generators, initial_noise, mix_seed
from slimdiff.sampling.process import alphas_of, noise_process, process_of
from slimdiff.sampling.schedulers import build_scheduler, check_sampler

__all__ = ['Action', 'Reuse', 'Run', 'Segment', 'StepAllocation', 'alphas_of', 'build_scheduler', 'check_sampler',
           'denoise', 'guided', 'image_generators', 'initial_noise', 'mix_seed', 'noise_process', 'process_of']

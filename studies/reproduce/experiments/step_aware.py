"""Networks of several widths: what each width gives after the same training, and what step allocations give."""

from studies.reproduce.experiment import Arm, Column, Experiment
from studies.reproduce.experiments import shared

SHORT = {**shared.short_schedule(6000), **shared.few_images(1000)}
NARROWER = (0.75, 0.5, 0.25)
#: half of the full network's MACs; 1,000 steps of DDPM take too long on two cores, so it has 100
ALLOCATIONS = [
    '--budget', '0.5', '--num-images', '400',
    '--searches', 'NSGA-II=configs/_base_/search/ddsm_recipe.py',
    'two-stage, loss gap=configs/_base_/search/two_stage_small.py',
    'two-stage, sensitivity=configs/_base_/search/two_stage_sensitivity.py',
    '--samplers', 'DDIMScheduler:10', 'DDIMScheduler:50', 'DDIMScheduler:100', 'DPMSolverMultistepScheduler:20',
    'DDPMScheduler:100',
]
#: of a wider network on easier data: as many MACs as uniform 0.75 has
WIDE = [
    '--budget', '0.56', '--num-images', '500',
    '--searches', 'NSGA-II=configs/_base_/search/ddsm_recipe.py',
    'two-stage, sensitivity=configs/_base_/search/two_stage_sensitivity.py',
    '--samplers', 'DPMSolverMultistepScheduler:20', 'DDIMScheduler:10', 'DDIMScheduler:50', 'DDIMScheduler:100',
    'DDPMScheduler:250',
]

EXPERIMENT = Experiment(
    name='step_aware',
    title='Networks of several widths',
    arms=[
        Arm('ddsm', 'configs/ddsm/photo_patches_16px.py', SHORT, seeds=range(3), label='slimmable (DDSM)'),
        Arm('fashion', 'configs/ddsm/fashion_mnist_16px.py', seeds=range(3), label='slimmable, Fashion-MNIST 16x16'),
    ],
    columns=[
        shared.DENOISING,
        *(Column(f'error, width {width:g}', {f'width{width:g}/denoise/total': 1.0}, scale=1000) for width in NARROWER),
        shared.FRECHET,
        *(Column(f'Fréchet, width {width:g}', {f'width{width:g}/fd': 1.0}, scale=1000) for width in NARROWER),
    ],
    baseline='ddsm',
    layout={'apart': ('fashion',)},  # other data, length and size
    follow_up={'ddsm': ALLOCATIONS, 'fashion': WIDE})

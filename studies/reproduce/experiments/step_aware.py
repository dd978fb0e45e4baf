"""Networks of several widths, plain and wavelet-gated with a teacher: what each width gives after the same training."""

from studies.reproduce.experiment import Arm, Column, Experiment
from studies.reproduce.experiments import shared

SHORT = {**shared.short_schedule(6000), **shared.few_images(1000)}
#: of the composition, compared among themselves: an iteration with a teacher takes twice as long
SHORTER = {**shared.short_schedule(4000), **shared.few_images(1000)}
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
COMPOSITION = [
    '--budget', '0.5', '--num-images', '400', '--searches',
    'two-stage, loss gap=configs/_base_/search/two_stage_small.py',
    'two-stage, sensitivity=configs/_base_/search/two_stage_sensitivity.py',
    '--samplers', 'DDIMScheduler:50', 'DPMSolverMultistepScheduler:20',
    '--against', 'SD={sd}', 'teacher=ldm/photo_patches_16px',
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
        Arm('sd_ddsm', 'configs/sd_ddsm/photo_patches_16px.py', SHORTER, seeds=range(1),
            label='slimmable, wavelet-gated, distilled (SD + DDSM)'),
        Arm('sd', 'configs/sd/photo_patches_16px.py', SHORTER, seeds=range(1),
            label='one width, wavelet-gated, distilled (SD)'),
    ],
    columns=[
        shared.DENOISING,
        *(Column(f'error, width {width:g}', {f'width{width:g}/denoise/total': 1.0}, scale=1000) for width in NARROWER),
        shared.FRECHET,
        *(Column(f'Fréchet, width {width:g}', {f'width{width:g}/fd': 1.0}, scale=1000) for width in NARROWER),
    ],
    baseline='ddsm',
    layout={'apart': ('fashion', 'sd_ddsm', 'sd')},  # other data, lengths and sizes
    follow_up={'ddsm': ALLOCATIONS, 'fashion': WIDE, 'sd_ddsm': COMPOSITION})

"""Transformers beside UNets of equal MACs, by noise prediction and by flow matching, and step-aware ones."""

from studies.reproduce.experiment import Arm, Experiment
from studies.reproduce.experiments import shared

SHORT = {**shared.short_schedule(2000), 'val_cfg.num_images': 1000, 'val_evaluator': [
    dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor')),
    dict(type='RadialSpectrumDistance'),
    dict(type='BandwiseDenoisingError', num_images=1000, timestep_edges=(0, 300, 1000), stderr=False),
    dict(type='ClassAccuracy', classifier='configs/classifiers/fashion_mnist.safetensors')]}
#: half of the blocks are 50.4 % of the MACs: a budget of 55 % has room for them
ALLOCATIONS = [
    '--budget', '0.55', '--num-images', '400', '--searches',
    *(f'{name}=configs/_base_/search/dpm_{name}.py' for name in ('width', 'depth', 'both', 'reuse')),
    '--samplers', 'DPMSolverMultistepScheduler:20', 'DDIMScheduler:50',
]

EXPERIMENT = Experiment(
    name='transformers',
    title='Transformers and UNets of equal MACs (Fashion-MNIST)',
    arms=[
        Arm('lite', 'configs/lite_ldm/fashion_mnist.py', SHORT, seeds=range(3), label='UNet, noise'),
        Arm('lite_flow', 'configs/lite_ldm/fashion_mnist_flow.py', SHORT, seeds=range(3), label='UNet, flow'),
        Arm('dit', 'configs/dit/fashion_mnist_small.py', SHORT, seeds=range(3), label='transformer, noise'),
        Arm('dit_flow', 'configs/dit/fashion_mnist_small_flow.py', SHORT, seeds=range(3), label='transformer, flow'),
        Arm('gated_dit', 'configs/sd_dit/fashion_mnist_gated.py', SHORT, seeds=range(3),
            label='U-shaped transformer, wavelet-gated'),
        Arm('sd_dit', 'configs/sd_dit/fashion_mnist.py', SHORT, seeds=range(1),
            label='U-shaped transformer, wavelet-gated, distilled'),
        Arm('ddsm_dit', 'configs/ddsm_dit/fashion_mnist.py', SHORT, seeds=range(3),
            label='transformer of four widths and three depths'),
    ],
    columns=[
        shared.FRECHET,
        shared.CLASS_ACCURACY,
        shared.SPECTRUM,
        shared.DENOISING,
        shared.TOP_BAND_BELOW_300,
    ],
    baseline='lite',
    follow_up={'ddsm_dit': ALLOCATIONS})

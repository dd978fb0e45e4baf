"""Both slimmings together: half of the MACs of an SD student, by a smaller one or by a step allocation."""

from studies.reproduce.experiment import Arm, Column, Experiment
from studies.reproduce.experiments import shared

OPTIONS = {
    **shared.short_schedule(4000),
    'train_dataloader.batch_size': 32,
    # Nothing but the figures at the end: the usual grids and spectra take minutes.
    'default_hooks.samples': None,
    'default_hooks.spectra': None,
    'val_cfg.num_images': 2000, 'val_cfg.batch_size': 250,
    'val_evaluator': [
        dict(type='KernelDistance', extractor=dict(type='EfficientNetLite0', size=64), subset_size=500),
        dict(type='ClassAccuracy', classifier='configs/classifiers/fashion_mnist.safetensors'),
        dict(type='RadialSpectrumDistance'),
        dict(type='BandwiseDenoisingError', num_images=2000, timestep_edges=(0, 300, 1000), stderr=False),
    ]}
#: of one width: the losses, the teacher's share and the start of configs/sd_ddsm/fashion_mnist.py
DENSE = {**OPTIONS, 'model.start_from': 'configs/ldm/fashion_mnist_weights', 'model.teacher.share': 0.25}
FULL = {**DENSE, 'model.unet.stages.2.channels': 48}
HALF = {**DENSE, 'model.unet.stages.1.channels': 8, 'model.unet.stages.2.channels': 32}
COMPARED = [
    '--budget', '0.5', '--num-images', '2000', '--batch-size', '200',
    '--searches', 'two-stage, sensitivity=configs/_base_/search/two_stage_sensitivity.py',
    '--samplers', 'DPMSolverMultistepScheduler:20', 'DDIMScheduler:50',
    '--against', 'SD={sd}', 'smaller SD={sd_half}',
]
NARROWER = (0.75, 0.5)

EXPERIMENT = Experiment(
    name='composition',
    title='Spectral Diffusion, then step-aware: half of the MACs of an image in two ways (Fashion-MNIST)',
    arms=[
        Arm('sd', 'configs/sd/fashion_mnist.py', FULL, seeds=range(3), label='SD'),
        Arm('sd_half', 'configs/sd/fashion_mnist.py', HALF, seeds=range(3), label='SD of half the MACs'),
        Arm('sd_ddsm', 'configs/sd_ddsm/fashion_mnist.py', OPTIONS, seeds=range(3), label='SD of three widths'),
    ],
    columns=[
        shared.DENOISING,
        *(Column(f'error, width {width:g}', {f'width{width:g}/denoise/total': 1.0}, scale=1000) for width in NARROWER),
        Column('kernel distance, EfficientNet-Lite0 (not KID)', {'kd': 1.0}),
        shared.CLASS_ACCURACY,
        *(Column(f'accuracy, width {width:g} (%)', {f'width{width:g}/class_accuracy': 1.0}, scale=100)
          for width in NARROWER),
        shared.SPECTRUM,
    ],
    baseline='sd',
    follow_up={'sd_ddsm': COMPARED})

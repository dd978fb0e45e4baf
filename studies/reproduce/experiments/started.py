"""Does a student that starts from its teacher's channels stay ahead in a long run? Fashion-MNIST, 10,000 iterations."""

from studies.reproduce.experiment import Arm, Column, Experiment
from studies.reproduce.experiments import shared

OPTIONS = {
    # Nothing but the figures at the end: the usual grids and spectra take minutes.
    'default_hooks.samples': None,
    'default_hooks.spectra': None,
    'val_cfg.num_images': 10_000, 'val_cfg.num_real': 10_000, 'val_cfg.batch_size': 250,
    'val_evaluator': [
        dict(type='FrechetDistance', extractor=dict(type='EfficientNetLite0', size=64)),
        dict(type='ClassAccuracy', classifier='configs/classifiers/fashion_mnist.safetensors'),
        dict(type='RadialSpectrumDistance'),
        dict(type='BandwiseDenoisingError', timestep_edges=(0, 300, 1000), stderr=False),
    ]}
STARTED = {**OPTIONS, 'model.start_from': 'configs/ldm/fashion_mnist_weights'}
#: the teacher is asked about a quarter of each batch, as by `slimdiff slim --recipe spectral`
DISTILLED = {**STARTED, 'model.teacher.share': 0.25, 'model.losses.0.weight': 0.5, 'model.losses.1.weight': 0.2}

EXPERIMENT = Experiment(
    name='started',
    title='A start from the most important channels of the teacher (Fashion-MNIST, 24 M MACs, 10,000 iterations)',
    arms=[
        Arm('lite', 'configs/lite_ldm/fashion_mnist.py', OPTIONS, seeds=range(3), label='Lite'),
        Arm('lite_started', 'configs/lite_ldm/fashion_mnist.py', STARTED, seeds=range(3), label='Lite, started'),
        Arm('gated_started', 'configs/sd/fashion_mnist_gated.py', STARTED, seeds=range(3), label='WG, started'),
        Arm('sd_started', 'configs/sd/fashion_mnist.py', DISTILLED, seeds=range(3), label='SD, started'),
    ],
    columns=[
        shared.DENOISING,
        shared.TOP_BAND_BELOW_300,
        Column('Fréchet distance, EfficientNet-Lite0 (not FID)', {'fd': 1.0}),
        shared.CLASS_ACCURACY,
        shared.SPECTRUM,
    ],
    baseline='lite')

"""Does each part of Spectral Diffusion (Yang et al. 2023) help a small network on 16x16 patches?

Equal MACs, iterations, preconditioning and order of the data; the teacher stands beside them.
"""

from studies.reproduce.experiment import Arm, Experiment
from studies.reproduce.experiments import shared

FIVE, TWO = range(5), range(2)

EXPERIMENT = Experiment(
    name='sd_central',
    title='Spectral Diffusion, part by part (PhotoPatches 16x16)',
    arms=[
        Arm('teacher', 'configs/ldm/photo_patches_16px.py', flags=['--amp'], label='Teacher'),
        Arm('lite', 'configs/lite_ldm/photo_patches_16px.py', seeds=FIVE, label='Lite'),
        Arm('lite_distilled', 'configs/lite_ldm/photo_patches_16px_distilled.py', seeds=TWO,
            label='Lite + distillation'),
        Arm('wavelet', 'configs/sd/photo_patches_16px_wavelet.py', seeds=TWO, label='Wavelets, no gate'),
        Arm('gated', 'configs/sd/photo_patches_16px_gated.py', seeds=FIVE, label='WG'),
        Arm('spatial', 'configs/sd/photo_patches_16px_spatial.py', seeds=TWO, label='WG + spatial'),
        Arm('frequency', 'configs/sd/photo_patches_16px_frequency.py', seeds=TWO, label='WG + frequency'),
        Arm('both', 'configs/sd/photo_patches_16px.py', seeds=FIVE, label='WG + both'),
    ],
    columns=shared.COLUMNS,
    baseline='lite')

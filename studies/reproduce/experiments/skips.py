"""A UNet with and without its skip connections: the supplement's section 2, by band-wise denoising error."""

from studies.reproduce.experiment import Arm, Experiment
from studies.reproduce.experiments import shared

SHORT = shared.short_schedule(4000)

EXPERIMENT = Experiment(
    name='skips',
    title='UNet with and without skip connections (PhotoPatches 16x16, 4,000 iterations)',
    arms=[
        Arm('skips', 'configs/lite_ldm/photo_patches_16px.py', SHORT, seeds=range(2), label='with skips'),
        Arm('no_skips', 'configs/lite_ldm/photo_patches_16px_no-skips.py', SHORT, seeds=range(2),
            label='without skips'),
    ],
    columns=shared.COLUMNS,
    baseline='skips',
    report='profile')

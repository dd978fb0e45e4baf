"""The weights of both losses on a 5x5 grid: the supplement's section 3.3 (its table 1) on 16x16 patches."""

from studies.reproduce.experiment import Arm, Experiment
from studies.reproduce.experiments import shared

WEIGHTS = (0, 0.01, 0.1, 0.5, 1.0)

EXPERIMENT = Experiment(
    name='sd_weights',
    title='Distillation weights (PhotoPatches 16x16, 500 iterations)',
    arms=[
        Arm(f's{spatial}-f{frequency}', 'configs/sd/photo_patches_16px.py',
            {**shared.short_schedule(500), **shared.few_images(500), **shared.losses(spatial, frequency)})
        for spatial in WEIGHTS for frequency in WEIGHTS
    ],
    columns=shared.COLUMNS,
    baseline='s0-f0',
    report='grid',
    layout=dict(
        rows=WEIGHTS, columns=WEIGHTS, arm='s{row}-f{column}', row_title='spatial weight',
        column_title='frequency weight',
        # Rows: lambda_s, columns: lambda_f.
        published=[[14.7, 13.6, 11.4, 12.8, 14.2], [14.3, 13.4, 11.7, 12.3, 13.9], [12.3, 11.6, 10.5, 10.9, 13.3],
                   [11.6, 12.3, 11.7, 13.0, 14.6], [12.8, 12.5, 12.8, 14.3, 16.1]],
        published_title='published (Yang et al. 2023): FID, FFHQ 256x256'))

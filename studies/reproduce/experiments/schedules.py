"""Linear against cosine noise schedule: the supplement's section 2, by band-wise denoising error.

A timestep is another noise level in each schedule, so a bin of timesteps, and the total over all of them, cannot be
compared. The bins here are cut where both have the same alpha-bar; a bin is named by the linear schedule's timesteps.
"""

from studies.reproduce.experiment import Arm, Column, Experiment
from studies.reproduce.experiments import shared

CONFIG = 'configs/lite_ldm/photo_patches_16px.py'
LINEAR = (0, 50, 100, 200, 300, 400, 500, 600, 800, 1000)
#: the cosine schedule's timestep with the alpha-bar that the linear one has at the same place of ``LINEAR``
COSINE = (0, 103, 203, 393, 564, 707, 818, 896, 974, 1000)


def options(edges: tuple[int, ...]) -> dict:
    return {**shared.short_schedule(4000), 'val_evaluator.3.timestep_edges': list(edges)}


EXPERIMENT = Experiment(
    name='schedules',
    title='Linear and cosine noise schedule (PhotoPatches 16x16, 4,000 iterations)',
    arms=[
        Arm('linear', CONFIG, options(LINEAR), seeds=range(2), label='linear schedule'),
        Arm('cosine', CONFIG, {**options(COSINE), 'model.noise_scheduler.beta_schedule': 'squaredcos_cap_v2'},
            seeds=range(2), label='cosine schedule'),
    ],
    columns=[
        shared.FRECHET, shared.SWD, shared.SPECTRUM,
        Column('log spectrum, top half, rms', {'spectrum/log/top': 1.0})],
    baseline='linear',
    report='profile',
    layout=dict(edges=dict(linear=LINEAR, cosine=COSINE), level_title="noise level, as the linear schedule's timestep"))

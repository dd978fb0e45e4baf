"""What makes distillation pay on a network this small: other taps, weights and norms than the paper's.

The paper's recipe (0.1 and 0.1, at output and up1) against variations of one thing each.
"""

from studies.reproduce.experiment import Arm, Experiment
from studies.reproduce.experiments import shared

CONFIG = 'configs/sd/photo_patches_16px.py'
SHORT = shared.short_schedule(4000)


def arm(name: str, label: str, spatial: float, frequency: float, **options: object) -> Arm:
    """An arm of the weights lambda_s, lambda_f; options are keys of both losses, the paper's by default."""
    return Arm(name, CONFIG, {**SHORT, **shared.losses(spatial, frequency, **options)}, seeds=range(2), label=label)


EXPERIMENT = Experiment(
    name='sd_remedies',
    title='Distillation: variations of the recipe (PhotoPatches 16x16, 4,000 iterations)',
    arms=[
        arm('none', 'not distilled', 0, 0),
        arm('output-x10', 'output alone, weights 1', 1.0, 1.0, tap='output'),
        arm('output-x100', 'output alone, weights 10', 10.0, 10.0, tap='output'),
        arm('output-spatial-x10', 'output alone, spatial, weight 1', 1.0, 0, tap='output'),
        arm('output-frequency-x10', 'output alone, frequency, weight 1', 0, 1.0, tap='output'),
        arm('paper', "the paper's weights and taps", 0.1, 0.1),
        arm('absolute', 'the same, features not normalised', 0.1, 0.1, relative=False),
        Arm('teacher-spectrum', CONFIG, {**SHORT, **shared.losses(0.1, 0.1), 'model.losses.1.source': 'teacher'},
            seeds=range(2), label="the same, weight from the teacher's spectrum"),
    ],
    columns=shared.COLUMNS,
    baseline='none')

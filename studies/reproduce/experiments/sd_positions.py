"""Where to distil: the supplement's section 3.2 (its figure 2) on 16x16 patches."""

from studies.reproduce.experiment import Arm, Experiment
from studies.reproduce.experiments import shared

CONFIG = 'configs/sd/photo_patches_16px.py'
SHORT = shared.short_schedule(2000)
#: the supplement's feat-down4, of a network with four stages, is the lowest stage: down3 here
POSITIONS = {'output': 'output', 'up1': 'up1', 'up2': 'up2', 'down3': 'down3', 'output+up1': ['output', 'up1']}

EXPERIMENT = Experiment(
    name='sd_positions',
    title='Distillation positions (PhotoPatches 16x16, 2,000 iterations)',
    arms=[
        Arm('none', CONFIG, {**SHORT, **shared.losses(0, 0)}, seeds=range(1),
            label='not distilled'),
        *(Arm(name, CONFIG, {**SHORT, **shared.losses(0.1, 0.1, tap=tap)}, seeds=range(1))
          for name, tap in POSITIONS.items()),
    ],
    columns=shared.COLUMNS,
    baseline='none',
    report='bars')

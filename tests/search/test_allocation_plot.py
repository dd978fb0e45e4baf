"""What an allocation does step by step, by hand; and the picture through the command."""

import re

import pytest
from PIL import Image

from slimdiff.cli.plot_allocation import main
from slimdiff.evaluation.unet_cost import unet_cost
from slimdiff.models.algorithms import DiffusionModel
from slimdiff.sampling.actions import Reuse, Run
from slimdiff.sampling.allocation import StepAllocation
from slimdiff.search.allocation_plot import allocation_table, saving, steps_done
from slimdiff.search.costs import NetworkCosts

MACS, SHALLOW = {0.5: 30.0, 1.0: 100.0}, {0.5: 8.0, 1.0: 25.0}
ALLOCATION = StepAllocation.from_pieces(
    [200, 400, 600, 800], [Run(0.5), Reuse('features'), Run(1.0), Reuse('prediction'), Run(0.5)])
STAGES = [dict(channels=8, blocks=1), dict(channels=8, blocks=1, downsample=False)]
CONFIG = f'''
default_scope = 'slimdiff'
model = dict(type='DiffusionModel', num_steps=10, guidance_scale=2.0, num_classes=3, unet=dict(
    type='SlimmableUNet', widths=(0.5, 1.0), sample_size=8, norm_groups=4, stages={STAGES!r}))
'''


def test_steps_by_hand():
    steps = steps_done(ALLOCATION, [900, 700, 500, 500, 300, 100], MACS, SHALLOW)
    assert [(step.kind, step.run.width, step.macs) for step in steps] == [
        ('run', 0.5, 30), ('prediction', 0.5, 0), ('run', 1.0, 100), ('run', 1.0, 100), ('features', 1.0, 25),
        ('run', 0.5, 30)]
    # Nothing to reuse at the first step, and at a timestep that comes again.
    again = steps_done(ALLOCATION, [300, 300, 250], MACS, SHALLOW)
    assert [(step.kind, step.macs) for step in again] == [('run', 100), ('run', 100), ('features', 25)]


@pytest.mark.parametrize('count', [1, 7, 100])
def test_steps_add_up_to_the_cost_of_the_allocation(count):
    timesteps = [999 * (count - i) / count for i in range(count)]
    costs = NetworkCosts(MACS, SHALLOW, calls_per_step=2)
    total = sum(step.macs for step in steps_done(ALLOCATION, timesteps, MACS, SHALLOW))
    assert total == ALLOCATION.macs(timesteps, MACS, SHALLOW)
    assert saving(ALLOCATION, timesteps, costs) == (2 * total, 200 * count, pytest.approx(1 - total / (100 * count)))


def test_table_by_hand():
    table = allocation_table({'a': ALLOCATION, 'full': StepAllocation.uniform(1.0)}, [900, 500],
                             NetworkCosts({0.5: 30e6, 1.0: 100e6}, SHALLOW))
    table = re.sub(' +', ' ', table)
    assert table.splitlines()[2:] == ['| a | 0.5, 1 | 130 M | 35.0 % |', '| full | 1 | 200 M | 0.0 % |']


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.py').write_text(CONFIG)
    ALLOCATION.save('one/allocation.json')
    StepAllocation.prefix(0.5, 1.0, 0.5).save('two/allocation.json')
    assert main(['config.py', 'one/allocation.json', 'two/allocation.json', '--out', 'plots/a.png']) == 0
    said = capsys.readouterr().out
    assert '999..800   width 0.5             2' in said and 'one/allocation, DDIMScheduler, 10 steps' in said
    model = DiffusionModel(dict(type='SlimmableUNet', widths=(0.5, 1.0), sample_size=8, norm_groups=4, stages=STAGES),
                           num_classes=3)
    full = unet_cost(model).conv_linear_macs
    model.unet = model.unet.extract(0.5)
    share = (unet_cost(model).conv_linear_macs + full) / (2 * full)
    row = f'| two/allocation | 0.5, 1 | {2 * 10 * share * full / 1e6:.4g} M | {100 * (1 - share):.1f} % |'
    assert row in re.sub(' +', ' ', said)
    with Image.open('plots/a.png') as image:
        assert image.size[0] > 800 and len(image.convert('RGB').getcolors(100_000)) > 20


def test_refusals(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'config.py').write_text(CONFIG)
    StepAllocation.uniform(0.25).save('narrow.json')
    StepAllocation.uniform(0.5, num_train_timesteps=10).save('short.json')
    for file, message in (('narrow', 'narrow: The allocation runs at width 0.25, but the network has 0.5, 1'),
                          ('short', 'short: The allocation is for 10 training timesteps'), ('none', 'none.json')):
        assert main(['config.py', f'{file}.json']) == 2
        assert message in capsys.readouterr().err
    StepAllocation.uniform(0.5).save('fine.json')
    assert main(['config.py', 'fine.json', '--steps', '0']) == 2
    assert 'num_steps must lie in 1..1000' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['config.py', 'fine.json', '--out', 'a.pdf'])
    assert not (tmp_path / 'allocation.png').exists()

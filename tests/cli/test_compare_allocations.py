"""The command, in this process, on a network of two widths with random weights."""

import json
import re

import pytest

from slimdiff.cli.compare_allocations import main
from slimdiff.sampling import StepAllocation

CONFIG = """
model = dict(
    type='DiffusionModel',
    sigma_data=None,
    num_steps=3,
    unet=dict(type='SlimmableUNet', sample_size=8, widths=(0.5, 1.0), norm_groups=4,
              stages=[dict(channels=16, blocks=1, downsample=False)]))
default_scope = 'slimdiff'
val_dataloader = dict(batch_size=8, sampler=dict(type='DefaultSampler', shuffle=False),
                      collate_fn=dict(type='default_collate'),
                      dataset=dict(type='PhotoPatches', split='val', image_size=8, length=16))
val_evaluator = [dict(type='LaplacianSWD', min_size=8), dict(type='BandwiseDenoisingError')]
search = dict(
    space=dict(num_segments=2),
    evaluators=[dict(type='DivergenceEvaluator', num_images=2)],
    searcher=dict(type='RandomSearch', num_candidates=6),
    num_steps=4)
"""
RUN = ['config.py', 'unet', '--work-dir', 'out', '--num-images', '6', '--batch-size', '3', '--budget', '0.6']


@pytest.fixture
def folder(model_folder):
    StepAllocation.prefix(.5, 1., .3).save((made := model_folder(CONFIG)) / 'mine.json')
    return made


def test_searches_and_samplers_are_kept(folder, capsys):
    words = [*RUN, '--searches', 'by chance=config.py', '--allocations', 'mine.json']
    assert main([*words, '--samplers', 'DDIMScheduler:2']) == 0
    printed = re.sub(' +', ' ', capsys.readouterr().out)
    assert '| by chance |' in printed and '| mine |' in printed and '| prefix |' in printed
    path = folder / 'out/comparison.json'
    first = json.loads(path.read_text())
    assert list(first['samplers']) == ['DDIMScheduler:2'] and first['num_images'] == 6
    assert list(first['samplers']['DDIMScheduler:2']) == ['full', 'prefix', 'random', 'mine', 'by chance']
    assert first['searches']['by chance']['candidates'] == 6
    # The search's allocation, which is for the budget.
    chosen = json.loads((folder / 'out/searches/by chance/allocation.json').read_text())
    assert first['samplers']['DDIMScheduler:2']['by chance']['of'] == chosen
    assert (folder / 'out/searches/by chance/report.html').is_file()

    assert main([*words, '--samplers', 'DDIMScheduler:2', 'DDPMScheduler:3']) == 0
    second = json.loads(path.read_text())
    assert second['samplers'].pop('DDPMScheduler:3')['full']['macs'] > 0
    assert second['samplers'] == first['samplers']  # seconds included: not measured again

    # Another allocation of a known name, and one less: the other rows stay.
    StepAllocation.prefix(.5, 1., .8).save('mine.json')
    assert main([*RUN, '--allocations', 'mine.json', '--samplers', 'DDIMScheduler:2']) == 0
    third = json.loads(path.read_text())['samplers']['DDIMScheduler:2']
    old = first['samplers']['DDIMScheduler:2']
    assert list(third) == ['full', 'prefix', 'random', 'mine']
    assert third['full'] == old['full'] and third['prefix'] == old['prefix'] and third['random'] == old['random']
    assert third['mine']['of'] != old['mine']['of'] and third['mine']['figures'] != old['mine']['figures']

    assert main([*words, '--seed', '1']) == 2
    assert 'holds another comparison: seed differ' in capsys.readouterr().err
    assert json.loads(path.read_text())['samplers'].keys() == {'DDIMScheduler:2', 'DDPMScheduler:3'}


@pytest.mark.parametrize('words, message', [
    (['--budget', '.1'], 'The budget must lie between'),
    (['--allocations', 'full=mine.json'], "Two rivals are called 'full'"),
    (['--searches', 'x=empty.py'], "has no 'search'"),
    (['--cfg-options', 'val_evaluator=[]'], 'needs real images to compare with'),
    (['--allocations', 'nowhere.json'], 'nowhere.json'),
])
def test_mistakes(folder, capsys, words, message):
    (folder / 'empty.py').write_text('model = dict()')
    assert main([*RUN, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('words, message', [
    (['--samplers', 'DDIMScheduler'], 'expected SCHEDULER:STEPS'), (['--budget', '1.5'], 'between 0 and 1'),
    (['--searches', 'config.py', '--allocations', 'config=mine.json'], "are called 'config'"),
    (['--against', 'teacher'], 'expected NAME=CONFIG,CHECKPOINT'), (['--num-images', '0'], 'at least 1, got 0'),
])
def test_wrong_words(capsys, words, message):
    with pytest.raises(SystemExit):
        main([*RUN, *words])
    assert message in capsys.readouterr().err

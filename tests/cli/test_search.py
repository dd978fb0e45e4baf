"""The command, in this process, on a network of two widths with random weights."""

import json
import re

import pytest
import torch

from slimdiff.checkpoint import save_checkpoint
from slimdiff.checkpoint.files import FORMAT
from slimdiff.cli.search import main, trained_runs
from slimdiff.configuration import load_config
from slimdiff.registry import MODELS
from slimdiff.sampling import Run, StepAllocation

CONFIG = """
model = dict(
    type='DiffusionModel',
    sigma_data=None,
    unet=dict(type='SlimmableUNet', sample_size=8, widths=(0.5, 1.0), norm_groups=4,
              stages=[dict(channels=16, blocks=1, downsample=False)]))
default_scope = 'slimdiff'
val_dataloader = dict(batch_size=8, sampler=dict(type='DefaultSampler', shuffle=False),
                      collate_fn=dict(type='default_collate'),
                      dataset=dict(type='PhotoPatches', split='val', image_size=8, length=8))
search = dict(
    space=dict(num_segments=3),
    evaluators=[dict(type='LossGapEvaluator', num_bins=3), dict(type='DivergenceEvaluator', num_images=2)],
    searcher=dict(type='TwoStageSearch', population=6, generations=2),
    num_steps=5)
"""


@pytest.fixture
def folder(model_folder):
    return model_folder(CONFIG)


def test_search_writes_everything_and_goes_on(folder, capsys):
    assert main(['config.py', 'unet', '--work-dir', 'out', '--budget', '.7']) == 0
    out = folder / 'out'
    printed = capsys.readouterr().out
    assert re.search(r'18 candidates, 0 failed', printed) and 'rank correlation of LossGap' in printed
    assert re.search(r'search cost: .* network MACs, \d+ network calls .* 38 generated images', printed)
    allocation = StepAllocation.load(out / 'allocation.json')
    front = json.loads((out / 'front.json').read_text())
    chosen = next(row for row in front['front'] if StepAllocation.from_dict(row['allocation']) == allocation)
    assert chosen['fraction'] <= .7 and (out / 'front.png').stat().st_size > 5000
    page = (out / 'report.html').read_text()
    # All in one file: whatever it shows is in it.
    assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {'data:'} and 'http' not in page
    assert page.count('<svg') >= 4 and page.count('class="pixels"') >= 3 and 'rank correlation' in page

    before = (out / 'front.json').read_text()
    assert main(['config.py', 'unet', '--work-dir', 'out', '--budget', '1', '--samples', '0']) == 0
    assert (out / 'front.json').read_text() == before
    assert StepAllocation.load(out / 'allocation.json') == StepAllocation.uniform(1.)


@pytest.mark.parametrize('options, message', [
    (['--budget', '.01'], 'out of range: the cheapest allocation'),
    (['--budget-latency', '3'], 'set search.latency'),
    (['--cfg-options', 'search.searcher.type=TwoStagesSearch'], "no searcher 'TwoStagesSearch'"),
    (['--cfg-options', 'search.evaluators.0.num_bin=3'], "'num_bins'"),
    (['--cfg-options', 'search.space.widths=[0.25]'], 'asks for width 0.25'),
])
def test_refusals(folder, capsys, options, message):
    assert main(['config.py', 'unet', '--work-dir', 'out', *options]) == 2
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error


def test_a_checkpoint_of_fewer_widths_is_refused(folder, capsys):
    """Its weights would load: a slimmable network has the dense one's."""
    model = MODELS.build({**load_config('config.py').model, 'unet': dict(
        load_config('config.py').model.unet, widths=(.5, .75, 1.))})
    model.unet.save_pretrained('more')
    (folder / 'more.py').write_text(CONFIG.replace('widths=(0.5, 1.0)', 'widths=(0.5, 0.75, 1.0)'))
    assert main(['more.py', 'unet', '--work-dir', 'out']) == 2
    assert 'asks for width 0.75, but unet was trained at 0.5, 1' in capsys.readouterr().err
    dense = model.unet.extract(1.0)
    dense.save_pretrained('dense')
    assert main(['more.py', 'dense', '--work-dir', 'out']) == 2
    assert 'but dense was trained at 1.' in capsys.readouterr().err
    assert not (folder / 'out').exists()


@pytest.mark.parametrize('unet, widths', [
    (dict(type='SlimmableUNet', widths=[.5, 1]), (.5, 1)), (dict(type='SlimmableUNet'), (.25, .5, .75, 1)),
    (dict(_class_name='SlimmableUNet', widths=[.5, 1]), (.5, 1)), (dict(type='UNet'), (1, )),
    (dict(_class_name='StepAwareUNet', _networks={'0.25': {}, '0.5': {}}), (.25, .5)), ({}, None)
])
def test_widths_that_a_checkpoint_names(unet, widths):
    assert trained_runs(unet) == (None if widths is None else set(map(Run, widths)))
    if unet.get('_networks'):
        assert trained_runs({'_networks': {'0.5 depth 0.75': {}}}) == {Run(.5, .75)}
        said = StepAllocation.uniform(1 / 3).to_dict()
        assert trained_runs({'_networks': {'0.333333': {}}, '_allocation': said}) == {Run(1 / 3)}


def test_a_training_checkpoint_is_read_once(folder, capsys, monkeypatch):
    """For the weights and for the widths that it was trained at."""
    model = MODELS.build(load_config('config.py').model)
    unet = {**load_config('config.py').model.unet, 'widths': [1.0]}
    meta = dict(format=FORMAT, format_version=2, config=dict(model=dict(unet=unet)))
    save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), 'last.pth')
    reads, load = [], torch.load
    monkeypatch.setattr(torch, 'load', lambda path, **kwargs: reads.append(str(path)) or load(path, **kwargs))
    assert main(['config.py', 'last.pth', '--weights', 'online', '--work-dir', 'out']) == 2
    assert 'asks for width 0.5, but last.pth was trained at 1.' in capsys.readouterr().err
    assert reads == ['last.pth']

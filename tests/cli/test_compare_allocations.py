"""The command, in this process, on a network of two widths with random weights."""

import json
import re

import pytest
import torch
from mmengine import Config

from slimdiff.checkpoint.lock import FolderLock
from slimdiff.cli.compare_allocations import main, named
from slimdiff.cli.sample import build_model
from slimdiff.export.folder import as_pipeline
from slimdiff.models.backbones.slimmable import SlimmableUNet
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
    assert 'holds another comparison, with other values of\n    seed: 0 -> 1\n' in capsys.readouterr().err
    assert json.loads(path.read_text())['samplers'].keys() == {'DDIMScheduler:2', 'DDPMScheduler:3'}


def test_searches_of_different_spaces(folder):
    """One over widths, one over reuse alone: their fronts are judged by the costs of both."""
    (folder / 'reuse.py').write_text(CONFIG.replace(
        'space=dict(num_segments=2)', "space=dict(num_segments=3, widths=[1.0], reuse=['prediction', 'features'])"))
    assert main([*RUN, '--searches', 'widths=config.py', 'reuse=reuse.py', '--samplers', 'DDIMScheduler:2']) == 0
    found = json.loads((folder / 'out/comparison.json').read_text())
    volumes = [value for name in ('widths', 'reuse') for value in found['searches'][name]['hypervolume'].values()]
    assert len(volumes) == 4 and all(0 <= value <= 1 for value in volumes) and max(volumes) > 0
    assert found['searches']['reuse']['own_hypervolume'] is None  # it has not judged the narrowest width
    rows = found['samplers']['DDIMScheduler:2']
    assert rows['reuse']['macs'] <= rows['full']['macs'] and 'reuse' in str(rows['reuse']['of'])


def test_a_report_is_that_of_the_budget(folder):
    report, chosen = (folder / f'out/searches/x/{name}' for name in ('report.html', 'allocation.json'))
    words = ['--searches', 'x=config.py', '--samplers', 'DDIMScheduler:2']
    assert main([*RUN, *words]) == 0
    before = report.read_bytes(), chosen.read_bytes()
    assert main([*RUN, *words]) == 0
    assert (report.read_bytes(), chosen.read_bytes()) == before
    assert main([*RUN, *words, '--budget', '.95']) == 0
    assert report.read_bytes() != before[0] and chosen.read_bytes() != before[1]


@pytest.mark.parametrize('change, differs', [
    ('weights', 'model.unet.weights'), (("length=16", "length=12"), 'data: '), (('seed', ), 'metrics.1.seed'),
    (('num_steps=3,', 'num_steps=3, guidance_scale=1.5, num_classes=None,'), 'model.guidance_scale: 1.0 -> 1.5')])
def test_other_weights_settings_or_images_are_another_comparison(folder, capsys, change, differs):
    assert main([*RUN, '--samplers', 'DDIMScheduler:2']) == 0
    before = (folder / 'out/comparison.json').read_bytes()
    if change == 'weights':
        unet = SlimmableUNet.from_pretrained('unet', low_cpu_mem_usage=False)
        torch.nn.init.zeros_(unet.conv_out.weight)
        unet.save_pretrained('unet')
    elif change == ('seed', ):
        (folder / 'config.py').write_text(CONFIG.replace("Error')]", "Error', seed=3)]"))
    else:
        (folder / 'config.py').write_text(CONFIG.replace(*change))
    capsys.readouterr()
    assert main([*RUN, '--samplers', 'DDIMScheduler:2']) == 2
    error = capsys.readouterr().err
    assert 'comparison.json holds another comparison, with other values of' in error and differs in error
    assert (folder / 'out/comparison.json').read_bytes() == before


@pytest.mark.parametrize('content', ['{"identity"', '[]', '{}', '[' * 100_000])
def test_a_damaged_file_and_two_at_once(folder, capsys, content):
    (folder / 'out').mkdir()
    (folder / 'out/comparison.json').write_text(content)
    assert main([*RUN, '--samplers', 'DDIMScheduler:2']) == 2
    error = capsys.readouterr().err
    assert 'out/comparison.json' in error and 'remove that file' in error
    with FolderLock('out', 'comparing'):
        assert main([*RUN, '--samplers', 'DDIMScheduler:2']) == 2
    assert 'out is in use by process' in capsys.readouterr().err


def test_another_model_draws_from_the_same_noise(folder, capsys):
    as_pipeline(build_model(Config.fromfile('config.py'), 'unet', 'ema')).save_pretrained('exported')
    assert main([*RUN, '--against', 'twin=exported', '--samplers', 'DDIMScheduler:2']) == 0
    rows = json.loads((folder / 'out/comparison.json').read_text())['samplers']['DDIMScheduler:2']
    for key in ('figures', 'macs'):
        assert rows['twin'][key] == rows['full'][key] != rows['random'][key]


@pytest.mark.parametrize('words, message', [
    (['--budget', '.1'], 'The budget must lie between'),
    (['--allocations', 'full=mine.json'], "Two rivals are called 'full'"),
    (['--searches', 'x=empty.py'], 'empty.py lacks what this command needs: search'),
    (['--cfg-options', 'val_evaluator=[]'], 'needs real images to compare with'),
    (['--allocations', 'nowhere.json'], 'nowhere.json'),
    (['--against', 'sd/fashion_minst'], "Did you mean 'sd/fashion_mnist'?"),
])
def test_mistakes(folder, capsys, words, message):
    (folder / 'empty.py').write_text("default_scope = 'slimdiff'")
    assert main([*RUN, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('words, message', [
    (['--samplers', 'DDIMScheduler'], 'expected SCHEDULER:STEPS'), (['--budget', '1.5'], 'between 0 and 1'),
    (['--searches', 'config.py', '--allocations', 'config=mine.json'], "are called 'config'"),
    (['--num-images', '0'], 'at least 1, got 0'),
])
def test_wrong_words(capsys, words, message):
    with pytest.raises(SystemExit):
        main([*RUN, *words])
    assert message in capsys.readouterr().err


def test_names_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'lr=1').mkdir()
    (tmp_path / 'lr=1' / 'a.json').touch()
    assert [named(text) for text in ('lr=1/a.json', 'mine=lr=1/a.json', 'b=c.json', 'c.json')] == [
        ('a', 'lr=1/a.json'), ('mine', 'lr=1/a.json'), ('b', 'c.json'), ('c', 'c.json')]

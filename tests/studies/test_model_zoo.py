import json
from pathlib import Path

import pytest
import torch
import yaml

from slimdiff.evaluation.cost import count_cost, human
from slimdiff.models.serving import network_digest
from slimdiff.registry import MODELS
from studies.model_zoo import Counts, collect, measurements
from studies.model_zoo.command import main
from studies.model_zoo.entries import FIELDS, summary_of
from studies.model_zoo.pages import markdown_table
from studies.model_zoo.published import training_data

ROOT = Path(__file__).resolve().parents[2]
TEACHER = '''# A small teacher (Somebody et al. 2020), see configs/sd/photo_patches.py. And more.
model = dict(type='DiffusionModel', num_classes=5, unet=dict(
    type='UNet', sample_size=8, norm_groups=4, downsampler=dict(type='ConvDown'), upsampler=dict(type='NearestConvUp'),
    stages=[dict(channels=16, blocks=1), dict(channels=32, blocks=1, heads=2, downsample=False)]))
'''
STUDENT = '''# A student: it learns.
_base_ = '../ldm/photo_patches.py'
model = dict(type='Distiller', teacher=dict(checkpoint='nowhere'), losses=[dict(type='SpatialLoss', tap='output')],
             unet=dict(stages=[dict(channels=8, blocks=1), dict(channels=12, blocks=1, downsample=False)]))
'''
TOKENS = '''# Classes as tokens.
model = dict(type='DiffusionModel', num_classes=10, unet=dict(
    type='UNet', sample_size=8, norm_groups=4, class_token=True, context_channels=24, mid_cross_attention=True,
    mid_heads=2, downsampler=dict(type='ConvDown'), upsampler=dict(type='NearestConvUp'),
    stages=[dict(channels=16, blocks=1, heads=2, cross_attention=True), dict(channels=16, blocks=1)]))
'''
FILES = ['configs/ldm/README.md', 'configs/ldm/metafile.yml', 'configs/sd/README.md', 'configs/sd/metafile.yml',
         'model-index.yml', 'docs/en/model_zoo.md']


@pytest.fixture
def root(tmp_path):
    for name, text in {'ldm/photo_patches': TEACHER, 'sd/photo_patches': STUDENT, 'sd/photo_patches_again': STUDENT,
                       'sd/imagenet': TOKENS}.items():
        file = tmp_path / f'configs/{name}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / 'configs/ldm/photo_patches_weights').mkdir()
    return tmp_path


def counted(root):
    return json.loads((root / 'benchmarks/results/model_zoo.json').read_text())['networks']


def row_of(text, name):
    line = next(line for line in text.splitlines() if line.startswith('|') and name in line)
    return [cell.strip() for cell in line.strip('|').split('|')]


def test_pages_and_metafiles_hold_what_was_counted(root, capsys):
    assert main(['--root', str(root)]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith('wrote')] == FILES
    entries = {e.path: e for e in collect(root)}
    assert len(entries) == 4 and len(counted(root)) == 3  # two configs share a network
    teacher = entries['configs/ldm/photo_patches.py']
    unet = MODELS.build(dict(teacher.model)).unet
    cost = count_cost(unet, torch.zeros(1, 3, 8, 8), torch.zeros(1))
    row = row_of((root / 'configs/ldm/README.md').read_text(), 'photo_patches.py')
    assert row == ['[photo_patches.py](photo_patches.py)', 'PhotoPatches', '3x8x8', human(cost.params),
                   human(cost.conv_linear_macs), human(cost.ptflops), human(cost.macs_with_attention),
                   human(cost.activations), '-', '-', '-', '-']
    assert row_of((root / 'docs/en/model_zoo.md').read_text(), 'configs/ldm/photo_patches.py')[1:] == row[1:]

    meta = yaml.safe_load((root / 'configs/ldm/metafile.yml').read_text())
    assert meta['Collections'][0]['README'] == 'configs/ldm/README.md'
    assert meta['Models'] == [{
        'Name': 'ldm_photo_patches', 'In Collection': meta['Collections'][0]['Name'],
        'Config': 'configs/ldm/photo_patches.py', 'Weights': 'configs/ldm/photo_patches_weights', 'Metadata': {
            'Training Data': 'PhotoPatches', 'Parameters': cost.params, 'MACs': cost.conv_linear_macs,
            'MACs with attention': cost.macs_with_attention, 'FLOPs': 2 * cost.macs_with_attention,
            'Activations': cost.activations, 'Input': '3x8x8'}}]
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    assert index == {'Import': ['configs/ldm/metafile.yml', 'configs/sd/metafile.yml']}


def test_class_tokens_stand_apart_and_papers_numbers_are_marked(root):
    main(['--root', str(root)])
    text = (root / 'configs/sd/README.md').read_text()
    count = next(c for c in counted(root).values() if c['first_config'] == 'configs/sd/imagenet.py')
    assert count['class_tokens'] == 11 * 24  # ten classes and the null class
    row = row_of(text, 'imagenet.py')
    assert row[3] == f'{human(count["params"] - 264)} + 264'
    header = next(line for line in text.splitlines() if line.startswith('| config'))
    assert [cell.strip() for cell in header.strip('|').split('|')][-3:] == [
        "the paper's params", "the paper's MACs", "the paper's FID"]
    assert row[-3:] == ['45.4 M', '9.9 G', '10.6 (guidance 3)']


def test_what_is_out_of_date_is_said(root, capsys):
    check = ['--root', str(root), '--check']
    assert main(check) == 1
    assert 'configs/sd/imagenet.py: its network has not been counted' in capsys.readouterr().err
    main(['--root', str(root)])
    capsys.readouterr()
    stamps = {name: (root / name).stat().st_mtime_ns for name in FILES}
    assert main(check) == 0 and main(['--root', str(root)]) == 0
    assert 'wrote' not in capsys.readouterr().out
    assert stamps == {name: (root / name).stat().st_mtime_ns for name in FILES}

    page = root / 'configs/sd/README.md'
    page.write_text(page.read_text().replace('9.9 G', '9.8 G'))
    (root / 'model-index.yml').unlink()
    assert main(check) == 1
    err = capsys.readouterr().err
    assert 'configs/sd/README.md: is out of date' in err and 'model-index.yml: is missing' in err
    assert 'Run `python tools/misc/model_zoo.py`' in err and 'ldm' not in err

    config = root / 'configs/ldm/photo_patches.py'
    config.write_text(TEACHER.replace('channels=32', 'channels=24'))
    assert main(check) == 1
    assert 'configs/ldm/photo_patches.py: its network has not been counted' in capsys.readouterr().err
    before = counted(root)
    assert main(['--root', str(root)]) == 0 and main(check) == 0
    assert len(counted(root)) == 3 and counted(root).keys() != before.keys()  # the old network is forgotten


def test_recount_finds_counts_that_are_no_longer_true(root, capsys):
    main(['--root', str(root)])
    path = root / 'benchmarks/results/model_zoo.json'
    content = json.loads(path.read_text())
    digest = next(e.digest for e in collect(root) if e.path == 'configs/sd/photo_patches.py')
    content['networks'][digest]['macs_published'] += 1
    path.write_text(json.dumps(content))
    assert main(['--root', str(root), '--check', '--recount', '*sd/photo*']) == 1
    assert 'configs/sd/photo_patches.py: its counts were' in capsys.readouterr().err
    assert main(['--root', str(root), '--recount', '*sd/photo*']) == 0
    assert main(['--root', str(root), '--check', '--recount', '*']) == 0
    assert main(['--root', str(root), '--recount', 'nothing']) == 2
    assert "'nothing' matches no config" in capsys.readouterr().err


def measurement(entries, **settings):
    settings = dict(device='cpu', hardware='Some CPU', threads=2, batch_size=8, dtype='fp32', dtype_means='float32',
                    compile=None) | settings
    return dict(command='python benchmark.py', settings=settings,
                configs={name: dict(digest=digest, time_steps_per_second=speed) for name, digest, speed in entries},
                against_first={entries[1][0]: dict(
                    speed_up=dict(median=3.0, q25=2.5, q75=3.25), macs_ratio=dict(published=4.0, with_attention=5.0),
                    efficiency=dict(published=0.75, with_attention=0.6))})


def test_measurements_belong_to_networks(root):
    digests = {e.path: e.digest for e in collect(root)}
    folder = root / 'benchmarks/results'
    folder.mkdir(parents=True)
    (folder / 'throughput_cpu.json').write_text(json.dumps(measurement([
        ('configs/ldm/photo_patches.py', digests['configs/ldm/photo_patches.py'], 12.345),
        ('configs/sd/photo_patches.py', digests['configs/sd/photo_patches.py'], 37.0)])))
    (folder / 'throughput_cuda.json').write_text(json.dumps(measurement([
        ('configs/ldm/photo_patches.py', 'of a network that has changed since', 1.0),
        ('configs/sd/photo_patches.py', digests['configs/sd/photo_patches.py'], 99.0)], device='cuda', hardware='GPU',
        compile='default')))
    main(['--root', str(root)])
    sd, ldm = ((root / f'configs/{name}/README.md').read_text() for name in ('sd', 'ldm'))
    assert row_of(ldm, 'photo_patches.py')[8:10] == ['12.35', '-']
    for name in ('photo_patches.py', 'photo_patches_again.py'):  # one network
        assert row_of(sd, name)[8:10] == ['37', '99']
    assert row_of(sd, 'imagenet.py')[8:10] == ['-', '-']
    assert '[1] Some CPU, 2 threads, batch 8, float32; [2] GPU, batch 8, float32, compiled (default)' in sd
    page = (root / 'docs/en/model_zoo.md').read_text()
    assert page.count('against `configs/ldm/photo_patches.py`') == 1  # not where one side has changed
    assert '| `configs/sd/photo_patches.py` | 3.00 (2.50 .. 3.25) | 4.00 | 0.75 | 5.00 | 0.60 |' in page


def test_files_of_one_setting_are_one_column():
    one, two = (measurement([('a', f'{k}', 1.0), ('b', f'{k}{k}', 2.0)]) for k in 'xy')
    settings = measurements.by_setting([one, two, measurement([('a', 'x', 5.0), ('b', 'z', 6.0)], threads=1)])
    assert [s.speeds for s in settings] == [dict(x=1.0, xx=2.0, y=1.0, yy=2.0), dict(x=5.0, z=6.0)]


def test_an_interrupt_keeps_what_was_counted(root):
    entries = collect(root)

    def counter(entry):
        if 'imagenet' in entry.path:
            raise KeyboardInterrupt
        return dict.fromkeys(FIELDS, 1)

    counts = Counts(root / 'counts.json')
    with pytest.raises(KeyboardInterrupt):
        counts.add(counts.missing(entries), counter)
    again = Counts(root / 'counts.json')
    assert [c['first_config'] for c in again.known.values()] == ['configs/ldm/photo_patches.py']
    assert [e.path for e in again.missing(entries)] == ['configs/sd/imagenet.py', 'configs/sd/photo_patches.py']
    # A file of a version that counted less is counted anew.
    counts.path.write_text(counts.path.read_text().replace('"activations"', '"something"'))
    assert Counts(counts.path).known == {}


def test_network_digest():
    unet = dict(type='UNet', sample_size=8, stages=[dict(channels=8, blocks=1)])
    base = dict(type='DiffusionModel', unet=unet, num_steps=10)
    same = [dict(base, num_steps=20), dict(base, type='Distiller', teacher=dict(checkpoint='x'), losses=[])]
    others = [dict(base, num_classes=3), dict(base, sigma_data=None), dict(base, unet=dict(unet, sample_size=16)),
              dict(base, conditioner=dict(type='CLIPText', checkpoint='here'))]
    assert {network_digest(c) for c in same} == {network_digest(base)}
    assert len({network_digest(c) for c in [base, *others]}) == 5
    moved = dict(base, conditioner=dict(type='CLIPText', checkpoint='there'))
    assert network_digest(moved) == network_digest(others[-1])


@pytest.mark.parametrize('text, summary', [
    (TEACHER, 'A small teacher (Somebody et al. 2020), see `configs/sd/photo_patches.py`.'),
    ('# All of it:\n#   python tools/train.py x.py\na = 1\n', 'All of it.'),
    ('a = 1\n# not at the top\n', '')])
def test_summaries(text, summary):
    assert summary_of(text) == summary


def test_markdown_table():
    assert markdown_table(('a', 'b'), [('1', '2')]) == '| a | b |\n| --- | ---: |\n| 1 | 2 |'


def test_a_name_that_nobody_explained():
    with pytest.raises(ValueError, match=r"what mnist.py trains on: its name begins with none of ffhq.*TRAINING_DATA"):
        training_data('mnist')


def test_a_folder_without_configs(tmp_path, capsys):
    assert main(['--root', str(tmp_path)]) == 2
    assert 'has no configs/' in capsys.readouterr().err


def test_the_model_zoo_of_the_repository_is_up_to_date(capsys):
    """The counts of the small networks anew; those of the large ones by the digest of their configs."""
    status = main(['--root', str(ROOT), '--check', '--recount', '*photo_patches*'])
    assert status == 0, capsys.readouterr().err

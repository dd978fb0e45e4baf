"""Checkpoints and exported folders with something odd in them: one line that names the file, never a traceback."""

import copy
import json

import pytest
import torch

from slimdiff.checkpoint import load_checkpoint
from slimdiff.checkpoint.files import FORMAT, FORMAT_VERSION
from slimdiff.cli import sample
from slimdiff.export.folder import export_pipeline
from slimdiff.models.computation import of_model
from slimdiff.registry import MODELS

UNET = dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1, downsample=False)])
MODEL = dict(type='DiffusionModel', num_classes=3, num_steps=1, unet=UNET)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A config, a checkpoint and an exported folder that fit."""
    folder = tmp_path_factory.mktemp('made')
    (folder / 'config.py').write_text(f'model = {MODEL!r}\n')
    model = MODELS.build(copy.deepcopy(MODEL))
    meta = dict(format=FORMAT, format_version=FORMAT_VERSION, config=dict(model=MODEL),
                dataset_meta=dict(classes=['a', 'b', 'c']), computes=of_model(model))
    torch.save(dict(meta=meta, state_dict=model.state_dict(), ema=dict(state_dict=model.state_dict())),
               folder / 'x.pth')
    export_pipeline(model, folder / 'exported')
    return folder


def run(made, checkpoint, tmp_path):
    return sample.main([str(made / 'config.py'), str(checkpoint), '-n', '1', '--out', str(tmp_path / 'out.npz')])


def put(tree, path, value):
    *parents, last = path.split('.')
    for part in parents:
        tree = tree[part]
    tree[last] = value


def test_without_damage(made, tmp_path):
    assert run(made, made / 'x.pth', tmp_path) == 0 == run(made, made / 'exported', tmp_path)


@pytest.mark.parametrize('place', [
    'meta', 'meta.format_version', 'meta.config', 'meta.config.model', 'meta.dataset_meta',
    'meta.dataset_meta.classes', 'meta.computes', 'meta.computes.schedule', 'meta.computes.network', 'state_dict',
    'ema', 'ema.state_dict'])
def test_a_checkpoint(place, made, tmp_path, capsys):
    for value in ('x', [7], None):
        checkpoint = load_checkpoint(made / 'x.pth')
        put(checkpoint, place, value)
        torch.save(checkpoint, tmp_path / 'odd.pth')
        status, said = run(made, tmp_path / 'odd.pth', tmp_path), capsys.readouterr().err
        if value is None and status == 0:
            assert place.startswith('meta.'), place  # not said: nothing to compare
        elif place != 'meta.dataset_meta.classes' or value != [7]:
            assert status == 2 and 'odd.pth' in said and 'Traceback' not in said, (place, value, said)


@pytest.mark.parametrize('key, value', [
    ('stages', 4), ('stages', [{'channels': 'a'}]), ('stages', None), ('preconditioning', 4),
    ('preconditioning', {'schedule': 4}), ('norm_groups', 'a'), ('_class_name', 4),
    ('num_classes', 'a'), ('_computes', [1]), ('_computes', {'schedule': {'x': 1}})])
def test_the_config_of_an_exported_network(key, value, made, tmp_path, capsys):
    export_pipeline(MODELS.build(copy.deepcopy(MODEL)), tmp_path / 'odd')
    file = tmp_path / 'odd/unet/config.json'
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, key: value}))
    assert run(made, tmp_path / 'odd', tmp_path) == 2
    said = capsys.readouterr().err
    assert (key == '_class_name' or 'odd' in said) and 'Traceback' not in said

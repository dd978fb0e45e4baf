"""The command trains on small IDX files whose classes a few seconds are enough for."""

import gzip
import re

import numpy as np
import pytest
import torch
from idx_files import idx_bytes

from slimdiff.cli.train_classifier import main
from slimdiff.datasets import FashionMNIST
from slimdiff.evaluation.classifier import load_classifier

CONFIG = '''
train_dataloader = dict(batch_size=64, sampler=dict(type='ResumableSampler'),
                        dataset=dict(type='FashionMNIST', data_root='.'))
val_dataloader = dict(batch_size=64, sampler=dict(type='DefaultSampler', shuffle=False),
                      dataset=dict(type='FashionMNIST', data_root='.', split='test'))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stripes that lie (label 0) or stand (label 3), at any place and contrast, with noise."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for prefix, count in (('train', 320), ('t10k', 100)):
        labels = rng.integers(0, 2, count) * 3
        waves = np.sin(np.arange(28) * rng.uniform(0.8, 1.2, (count, 1)) + rng.uniform(0, 6, (count, 1)))
        waves = np.where((labels == 0)[:, None, None], waves[:, :, None], waves[:, None, :])
        images = (127 + rng.uniform(40, 100, (count, 1, 1)) * waves + rng.normal(0, 10, (count, 28, 28))).clip(0, 255)
        for array, kind in ((images, 'images-idx3'), (labels, 'labels-idx1')):
            (tmp_path / f'{prefix}-{kind}-ubyte.gz').write_bytes(gzip.compress(idx_bytes(array)))
    (tmp_path / 'config.py').write_text(CONFIG)
    return tmp_path


def test_it_learns_and_its_file_says_what_and_how_well(folder, capsys):
    assert main(['config.py', '--out', 'new/net.safetensors', '--epochs', '5', '--batch-size', '32']) == 0
    network, info = load_classifier('new/net.safetensors')
    assert network.classes == list(FashionMNIST.classes) and (network.channels, network.size) == (1, 32)
    data = FashionMNIST('.', 'test')
    batch = data.get_batch(range(100))
    with torch.inference_mode():
        right = (network(batch['inputs']).argmax(1) == batch['labels']).float().mean().item()
    # half precision may move an image across
    assert right >= 0.95 and info['accuracy'] == pytest.approx(right, abs=0.011) and info['images'] == 100
    assert f'{info["accuracy"]:.2%} of 100 test images right, 163,' in capsys.readouterr().out
    size = (folder / 'new/net.safetensors').stat().st_size
    assert size < 400_000


@pytest.mark.parametrize('more, message', [
    ("val_dataloader = None", 'neither a test_dataloader nor a val_dataloader'),
    ("train_dataloader['dataset'] = dict(type='RandomSamples', shape=[1, 32, 32])", 'they have none and T-shirt'),
    ("val_dataloader['dataset']['type'] = 'MNIST'", 'they have T-shirt.* and 0, 1'),
    ("for part in (train_dataloader, val_dataloader):\n    part['dataset']['image_size'] = 29", 'even size, got 29'),
])
def test_data_that_teach_no_classes(folder, capsys, more, message):
    (folder / 'config.py').write_text(CONFIG + more + '\n')
    assert main(['config.py', '--out', 'net.safetensors']) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (folder / 'net.safetensors').exists()


@pytest.mark.parametrize('options', [['--epochs', '0'], ['--batch-size', '1'], ['--out', 'net.pth']])
def test_bad_options(folder, options):
    with pytest.raises(SystemExit) as stopped:
        main(['config.py', '--out', 'net.safetensors', *options])
    assert stopped.value.code == 2

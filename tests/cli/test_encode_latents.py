"""`encode_latents` against diffusers' encoders called directly; stopped, killed, damaged and shared out."""

import hashlib
import json
import os
import shutil
import signal
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from first_stages import tiny_kl, tiny_vq
from PIL import Image

from slimdiff.checkpoint.lock import FolderLock
from slimdiff.cli.encode_latents import main, without_random_steps
from slimdiff.datasets import LatentDataset, PhotoPatches, latent_files
from slimdiff.datasets.latent_files import to_tensor
from slimdiff.datasets.seeding import seed32
from slimdiff.engine import encoding
from slimdiff.registry import DATASETS

TOOL = str(Path(__file__).resolve().parents[2] / 'tools/dataset_converters/encode_latents.py')
EXACT = dict(rtol=1e-5, atol=1e-5)
LENGTH = 11


@pytest.fixture
def setting(tmp_path):
    """(config file, folder of the VQModel, its diffusers model): 11 photo patches of 16x16."""
    vq = tiny_vq(tmp_path / 'vq')
    config = tmp_path / 'config.py'
    config.write_text(f'''
model = dict(
    type='DiffusionModel', autoencoder=dict(type='VQAutoencoder', checkpoint={str(tmp_path / 'vq')!r}),
    unet=dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1)]))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='ResumableSampler'),
    dataset=dict(type='PhotoPatches', image_size=16, length={LENGTH}))
''')
    return str(config), tmp_path / 'vq', vq


def encode(config, out, *words, status=0):
    words = [config, *(('--out', str(out)) if out else ()), '--shard-size', '4', '--batch-size', '3', *words]
    assert main([str(word) for word in words]) == status


def content(folder):
    """Name -> checksum of every file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}


def images():
    return PhotoPatches(image_size=16, length=LENGTH).get_batch(range(LENGTH))


@torch.no_grad()
def test_latents_are_what_diffusers_gives(setting, tmp_path, capsys):
    config, _, vq = setting
    encode(config, tmp_path / 'out', '--dtype', 'float32')
    dataset, data = LatentDataset(str(tmp_path / 'out')), images()
    expected = vq.encode(data['inputs']).latents
    got = torch.stack([sample['latents'] for sample in dataset])
    torch.testing.assert_close(got, expected, **EXACT)
    assert [sample['labels'] for sample in dataset] == data['labels'].tolist()
    assert dataset.classes == PhotoPatches(image_size=16).classes
    info = dataset.metainfo['latents']
    assert info['image_size'] == [16, 16] and info['autoencoder']['latent_scale'] == 1.0
    std = got.double().std(correction=0).item()
    assert info['statistics']['std'] == pytest.approx(std, rel=1e-9)
    printed = capsys.readouterr().out
    assert '11 images as 3x8x8 latents (float32' in printed and f'a latent_scale of {1 / std:.5g} would' in printed


@torch.no_grad()
def test_flips_are_encoded_mirror_images_bit_for_bit(setting, tmp_path):
    config, _, vq = setting
    encode(config, tmp_path / 'out', '--dtype', 'float32', '--flip')
    encode(config, tmp_path / 'plain', '--dtype', 'float32')
    stored = np.load(tmp_path / 'out/latents-00001.npy')
    assert stored.shape == (4, 2, 3, 8, 8)
    assert np.array_equal(stored[:, 0], np.load(tmp_path / 'plain/latents-00001.npy'))
    mirrored = vq.encode(images()['inputs'][4:8].flip(-1)).latents
    torch.testing.assert_close(torch.from_numpy(stored[:, 1]), mirrored, **EXACT)
    assert not np.allclose(stored[:, 1], stored[:, 0, :, :, ::-1], atol=1e-4)  # encoding and flipping don't commute


@torch.no_grad()
def test_posterior_of_a_kl_first_stage(setting, tmp_path):
    config, _, _ = setting
    kl = tiny_kl(tmp_path / 'kl', latent_channels=3)
    options = ['--cfg-options', 'model.autoencoder.type=KLAutoencoder',
               f'model.autoencoder.checkpoint={tmp_path / "kl"}', '--dtype', 'float32']
    encode(config, tmp_path / 'mode', '--posterior', 'mode', *options)
    encode(config, tmp_path / 'sample', '--seed', '5', *options)
    posterior = kl.encode(images()['inputs']).latent_dist
    noise = torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed32(5, i, 0)))
                         for i in range(LENGTH)])
    for name, expected in (('mode', posterior.mean), ('sample', posterior.mean + posterior.std * noise)):
        got = torch.stack([s['latents'] for s in LatentDataset(str(tmp_path / name))])
        torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
@torch.no_grad()
def test_half_precision_is_the_rounded_float32(setting, tmp_path, dtype):
    config, _, _ = setting
    encode(config, tmp_path / 'out', '--dtype', dtype)
    stored = to_tensor(np.load(tmp_path / 'out/latents-00000.npy'), dtype)
    encode(config, tmp_path / 'exact', '--dtype', 'float32')
    assert torch.equal(stored, torch.from_numpy(np.load(tmp_path / 'exact/latents-00000.npy')).to(stored.dtype))


def test_overflow_is_an_error(setting, tmp_path, monkeypatch, capsys):
    config, _, _ = setting
    monkeypatch.setattr('slimdiff.models.autoencoders.pretrained.PretrainedAutoencoder.encode_raw',
                        lambda self, x, noise=None: torch.full((len(x), 3, 8, 8), 1e5))
    encode(config, tmp_path / 'out', status=2)
    assert 'latents of image 0 are not finite in float16 (largest value 100000). Use --dtype bfloat16' in \
        capsys.readouterr().err
    encode(config, tmp_path / 'out', '--overwrite', '--dtype', 'bfloat16')


# ---- stopped and gone on ------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_finished_shards(setting, tmp_path, monkeypatch, capsys):
    config, _, _ = setting
    encode(config, tmp_path / 'whole')
    written, real = [], encoding.write_shard

    def interrupted(folder, number, *args):
        if number == 2:
            raise KeyboardInterrupt
        written.append(number)
        return real(folder, number, *args)

    monkeypatch.setattr(encoding, 'write_shard', interrupted)
    encode(config, tmp_path / 'out', status=130)
    assert 'the same command goes on' in capsys.readouterr().err and written == [0, 1]
    assert not json.loads((tmp_path / 'out/index.json').read_text())['complete']
    monkeypatch.setattr(encoding, 'write_shard', lambda *args: (written.append(args[1]), real(*args)))
    (tmp_path / 'out/.latents-00002.npy.1.tmp').write_bytes(b'of a process that was killed')
    encode(config, tmp_path / 'out')
    assert written == [0, 1, 2] and content(tmp_path / 'out') == content(tmp_path / 'whole')
    assert '2 of 3 shards are there and intact' in capsys.readouterr().out


def test_a_damaged_shard_is_made_again(setting, tmp_path, monkeypatch, capsys):
    config, _, _ = setting
    encode(config, tmp_path / 'out')
    before = content(tmp_path / 'out')
    file = tmp_path / 'out/latents-00001.npy'
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(data)
    (tmp_path / 'out/latents-00002.npy').unlink()
    written, real = [], encoding.write_shard
    monkeypatch.setattr(encoding, 'write_shard', lambda *args: (written.append(args[1]), real(*args)))
    encode(config, tmp_path / 'out', '--batch-size', '3')
    assert written == [1, 2] and content(tmp_path / 'out') == before
    assert 'latents-00001.npy is damaged: its checksum is wrong. It is made again' in capsys.readouterr().err


@pytest.mark.parametrize('damage', [b'', b'{"format": "slimdiff-la', b'\xff\x00', None])
def test_a_lost_index_is_made_anew_of_its_shards(setting, tmp_path, monkeypatch, capsys, damage):
    config, _, _ = setting
    encode(config, tmp_path / 'out')
    before, index = content(tmp_path / 'out'), tmp_path / 'out/index.json'
    index.unlink() if damage is None else index.write_bytes(damage)
    found = content(tmp_path / 'out')
    for change in (['--flip'], ['--dtype', 'float32'], ['--shard-size', '5']):
        encode(config, tmp_path / 'out', *change, status=2)
        assert (f'is {"missing" if damage is None else "damaged"}, and 3 of the shards there are of other settings'
                in capsys.readouterr().err)
    assert content(tmp_path / 'out') == found
    with pytest.raises(ValueError, match='Run the slimdiff encode_latents command of this folder' if damage is not None
                       else 'there are no encoded latents'):
        LatentDataset(str(tmp_path / 'out'))
    (tmp_path / 'out/latents-00001.npy').write_bytes(b'cut off')
    written, real = [], encoding.write_shard
    monkeypatch.setattr(encoding, 'write_shard', lambda *args: (written.append(args[1]), real(*args)))
    encode(config, tmp_path / 'out')
    assert 'it is written again, for 2 shards are of these settings' in capsys.readouterr().err
    assert written == [1] and content(tmp_path / 'out') == before


def test_a_damaged_index_beside_shards_that_do_not_say_their_settings(setting, tmp_path, capsys):
    config, _, _ = setting
    encode(config, tmp_path / 'out')
    before = content(tmp_path / 'out')
    for file in (tmp_path / 'out').glob('records-*.json'):  # as an older slimdiff wrote them
        records = json.loads(file.read_text())['records']
        del records['settings']
        file.write_text(json.dumps(dict(sha256=latent_files._hash(records), records=records)))
    encode(config, tmp_path / 'out')  # the index is there: nothing is lost
    assert len(LatentDataset(str(tmp_path / 'out'), verify=True)) == LENGTH
    (tmp_path / 'out/index.json').write_text('[{}')
    capsys.readouterr()
    encode(config, tmp_path / 'out', status=2)
    said = capsys.readouterr().err
    assert 'do not say of which' in said and '--overwrite, which removes all shards' in said
    encode(config, tmp_path / 'out', '--overwrite')
    assert content(tmp_path / 'out') == before
    # A file of another program, in a folder of its own, is not replaced.
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/index.json').write_text('{"a": 1}\n{"a": 2}\n')
    encode(config, tmp_path / 'mine', status=2)
    assert (tmp_path / 'mine/index.json').read_text() == '{"a": 1}\n{"a": 2}\n'


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_killed_run_goes_on(setting, tmp_path, monkeypatch):
    """SIGKILL at the worst moment: latents of a shard are written, its records are not."""
    config, _, _ = setting
    monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        real = latent_files.write_file

        def killed(path, write):
            if path.name == 'records-00001.json':
                os.kill(os.getpid(), signal.SIGKILL)
            real(path, write)

        latent_files.write_file = killed
        try:
            encode(config, tmp_path / 'out')
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = sorted(name for name in content(tmp_path / 'out') if not name.startswith('.'))  # but for its lock
    assert left == ['index.json', 'latents-00000.npy', 'latents-00001.npy', 'records-00000.json']
    encode(config, tmp_path / 'out')
    encode(config, tmp_path / 'whole')
    assert content(tmp_path / 'out') == content(tmp_path / 'whole')


def test_two_processes_make_the_files_of_one(setting, tmp_path, tiny_process):
    config, _, _ = setting
    more = ['--shard-size', '2', '--batch-size', '2', '--flip']
    ranks = tiny_process(config, '--launcher', 'pytorch', '--out', tmp_path / 'two', *more, ranks=2,
                         command=[sys.executable, TOOL])
    encode(config, tmp_path / 'one', *more)
    output = ''.join(process.communicate(timeout=120)[0] for process in ranks)
    assert [process.returncode for process in ranks] == [0, 0], output
    assert output.count('standard deviation') == 1, output
    assert len(content(tmp_path / 'one')) == 13 and content(tmp_path / 'two') == content(tmp_path / 'one')


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_other_settings_in_the_folder(setting, tmp_path, capsys):
    config, _, _ = setting
    encode(config, tmp_path / 'out')
    before = content(tmp_path / 'out')
    tiny_vq(tmp_path / 'other', seed=1)
    for change in (['--dtype', 'float32'], ['--flip'],
                   ['--cfg-options', f'model.autoencoder.checkpoint={tmp_path / "other"}']):
        encode(config, tmp_path / 'out', *change, status=2)
        assert 'holds other latents, with other values of\n    ' in capsys.readouterr().err
    assert content(tmp_path / 'out') == before
    encode(config, tmp_path / 'out', '--dtype', 'float32', '--overwrite')
    assert LatentDataset(str(tmp_path / 'out')).dtype == 'float32'


def test_other_images_in_the_same_place(setting, tmp_path, capsys):
    """As many, of the same size and names: their latents are others."""
    config, _, _ = setting
    text = Path(config).read_text().split('train_dataloader')[0]
    folder = str(tmp_path / 'images')
    Path(config).write_text(f"""{text}
train_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type='ResumableSampler'),
                        dataset=dict(type='ImageFolder', data_root={folder!r}, image_size=16))
""")
    Path(folder).mkdir()
    for i in range(9):
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(tmp_path / f'images/{i}.png')
    encode(config, tmp_path / 'out')
    before = content(tmp_path / 'out')
    encode(config, tmp_path / 'out')
    assert content(tmp_path / 'out') == before
    Image.fromarray(np.full((16, 16, 3), 255, np.uint8)).save(tmp_path / 'images/8.png')
    capsys.readouterr()
    encode(config, tmp_path / 'out', status=2)
    assert 'holds other latents, with other values of\n    images: ' in capsys.readouterr().err
    assert content(tmp_path / 'out') == before


def test_two_at_once(setting, tmp_path, capsys):
    config, _, _ = setting
    with FolderLock(tmp_path / 'out', 'encoding'):
        encode(config, tmp_path / 'out', status=2)
    assert 'out is in use by process' in capsys.readouterr().err


def test_another_scale_is_only_noted(setting, tmp_path, monkeypatch):
    config, _, _ = setting
    encode(config, tmp_path / 'out')
    monkeypatch.setattr(encoding, 'write_shard', None)
    encode(config, tmp_path / 'out', '--cfg-options', 'model.autoencoder.latent_scale=0.5')
    assert LatentDataset(str(tmp_path / 'out')).metainfo['latents']['autoencoder']['latent_scale'] == 0.5


def test_a_full_disk(setting, tmp_path, monkeypatch, capsys):
    config, _, _ = setting
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(10**6, 10**6 - 100, 100))
    encode(config, tmp_path / 'out', status=2)
    assert 'the latents will take 0.00 GB, but' in capsys.readouterr().err
    monkeypatch.undo()
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 7:
            raise OSError(28, 'No space left on device')
        real(descriptor)

    monkeypatch.setattr(os, 'fsync', full)
    encode(config, tmp_path / 'out', status=2)
    assert 'could not be written: the disk is full. Finished shards are kept' in capsys.readouterr().err
    assert (tmp_path / 'out/records-00000.json').exists() and not list((tmp_path / 'out').glob('.*'))
    monkeypatch.undo()
    encode(config, tmp_path / 'out')
    encode(config, tmp_path / 'whole')
    assert content(tmp_path / 'out') == content(tmp_path / 'whole')


def test_places_that_cannot_be_written(setting, tmp_path, capsys):
    config, _, _ = setting
    (tmp_path / 'file').touch()
    encode(config, tmp_path / 'file', status=2)
    assert 'is a file; give a folder' in capsys.readouterr().err
    encode(config, tmp_path / 'file/below', status=2)
    assert "Not a directory: '" in capsys.readouterr().err


def test_images_of_several_sizes(setting, tmp_path, monkeypatch, capsys):
    config, _, _ = setting
    real = PhotoPatches.__getitems__

    def odd(self, indices):
        samples = real(self, indices)
        for i, sample in zip(indices, samples):
            if i == 6:
                sample['inputs'] = sample['inputs'][:, :14]
        return samples

    monkeypatch.setattr(PhotoPatches, '__getitems__', odd)
    encode(config, tmp_path / 'out', status=2)
    assert 'Image 6 has (14, 16) pixels, the first of the data set (16, 16)' in capsys.readouterr().err


def test_a_config_that_trains_from_latents_says_of_what(setting, tmp_path, capsys):
    config, _, _ = setting
    latents = tmp_path / 'latents.py'
    text = Path(config).read_text().replace(
        "dict(type='PhotoPatches'",
        f"dict(type='LatentDataset', data_root={str(tmp_path / 'there')!r}, source=dict(type='PhotoPatches'")
    latents.write_text(text.replace(f'length={LENGTH})', f'length={LENGTH}))'))
    encode(str(latents), None)
    assert len(LatentDataset(str(tmp_path / 'there'))) == LENGTH
    encode(str(latents), None, '--cfg-options', 'train_dataloader.dataset.source=None', status=2)
    assert 'reads latents already, and does not say of which images: give its dataset source=' in \
        capsys.readouterr().err
    encode(config, None, status=2)
    assert '--out: the folder for the latents' in capsys.readouterr().err


def test_random_steps_of_a_pipeline(capsys):
    rest = [dict(type='PackImage')]
    for name in ('RandomFlip', 'mmcv.RandomFlip'):
        flip = dict(type=name, prob=1.0)
        assert without_random_steps(dict(type='x', pipeline=[flip, *rest])) == dict(type='x', pipeline=rest)
    assert '--flip encodes both' in capsys.readouterr().err
    with pytest.raises(ValueError, match='pipeline has RandomCrop'):
        without_random_steps(dict(type='x', pipeline=[dict(type='RandomCrop'), *rest]))


def test_a_first_stage_that_is_not_there(setting, tmp_path, capsys):
    config, _, _ = setting
    encode(config, tmp_path / 'out', '--cfg-options', 'model.autoencoder.checkpoint=checkpoints/vq', status=2)
    assert "the first stage 'checkpoints/vq' is not there" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


class Captioned(PhotoPatches):
    """Three captions an image, one of them drawn."""

    caption = 'random'

    def captions_of(self, item):
        return [f'{item} {word}' for word in 'abc']

    def __getitems__(self, indices):
        return [dict(sample, caption=f'{k} b') for k, sample in zip(indices, super().__getitems__(indices))]


def test_all_captions_of_an_image_are_kept(setting, tmp_path, monkeypatch):
    config, _, _ = setting
    monkeypatch.setitem(DATASETS.module_dict, 'PhotoPatches', Captioned)
    encode(config, tmp_path / 'out')
    dataset = LatentDataset(str(tmp_path / 'out'))
    assert {dataset[2 + LENGTH * epoch]['caption'] for epoch in range(40)} == {'2 a', '2 b', '2 c'}

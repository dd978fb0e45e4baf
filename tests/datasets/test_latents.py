"""Encoded latents on disk: format, statistics, flips, and damage."""

import json
import pickle

import numpy as np
import pytest
import torch

from slimdiff.datasets import LatentDataset, ResumableSampler, build_dataloader
from slimdiff.datasets.latent_files import (
    LatentFilesError,
    read_index,
    read_records,
    shard_ranges,
    statistics,
    to_array,
    to_tensor,
    write_index,
    write_shard,
)
from slimdiff.datasets.missing import MissingDataError

SHAPE = (3, 4, 4)


def write(folder, length=10, shard_size=4, dtype='float16', flips=False, extras=None, **changes):
    """Random latents as the command writes them; returns the values before rounding."""
    torch.manual_seed(3)
    values = torch.randn(length, *((2, ) if flips else ()), *SHAPE) * 2 + 0.5
    extras = extras or {}
    records = [write_shard(folder, number, to_array(values[part.start:part.stop], dtype), dtype,
                           {k: v[part.start:part.stop] for k, v in extras.items()}, part.start)
               for number, part in enumerate(shard_ranges(length, shard_size))]
    index = dict(complete=True, autoencoder=dict(type='VQAutoencoder'), shape=list(SHAPE), dtype=dtype, flips=flips,
                 length=length, shard_size=shard_size, extras=sorted(extras), classes=['a', 'b'],
                 statistics=statistics(records), shards=[r['sha256'] for r in records])
    write_index(folder, {**index, **changes})
    return values


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32'])
def test_what_was_written_is_read(tmp_path, dtype):
    values = write(tmp_path, dtype=dtype, extras=dict(labels=list(range(10))))
    dataset = LatentDataset(str(tmp_path))
    assert len(dataset) == 10 and dataset.num_classes == 2
    samples = list(dataset)
    got = torch.stack([sample['latents'] for sample in samples])
    assert got.dtype == getattr(torch, dtype)
    assert torch.equal(got, values.to(got.dtype))
    assert [sample['labels'] for sample in samples] == list(range(10))
    assert torch.equal(dataset.get_batch([13, 2])['latents'], got[[3, 2]])  # 13 is image 3 of the second epoch
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'index.json', *(f'latents-0000{i}.npy' for i in range(3)), *(f'records-0000{i}.json' for i in range(3))]
    assert to_tensor(np.load(tmp_path / 'latents-00002.npy'), dtype).shape == (2, *SHAPE)


def test_statistics_by_hand(tmp_path):
    values = write(tmp_path, length=11, dtype='float32', flips=True).double()
    found = LatentDataset(str(tmp_path)).metainfo['latents']['statistics']
    assert found['mean'] == pytest.approx(values.mean().item(), abs=1e-9)
    assert found['std'] == pytest.approx(values.std(correction=0).item(), abs=1e-9)
    assert found['implied_scale'] == pytest.approx(1 / values.std(correction=0).item())
    channels = values.movedim(2, 0).flatten(1)
    assert found['channel_mean'] == pytest.approx(channels.mean(1).tolist(), abs=1e-9)
    assert found['channel_std'] == pytest.approx(channels.std(1, correction=0).tolist(), abs=1e-9)


def test_flips_are_drawn_from_seed_and_index(tmp_path):
    values = write(tmp_path, dtype='float32', flips=True)

    def picks(dataset, indices):
        """0 or 1 for the image or its mirror image; bit for bit one of both."""
        out = []
        for k in indices:
            got, both = dataset[k]['latents'], values[k % 10]
            assert torch.equal(got, both[0]) or torch.equal(got, both[1])
            out.append(int(torch.equal(got, both[1])))
        return out

    dataset = LatentDataset(str(tmp_path))
    first = picks(dataset, range(200))
    assert first == picks(LatentDataset(str(tmp_path)), range(200)) != picks(LatentDataset(str(tmp_path), seed=1),
                                                                             range(200))
    assert 60 < sum(first) < 140 and first[:10] != first[10:20]  # another epoch, other draws
    batch = dataset.get_batch(range(200))['latents']
    assert torch.equal(batch, torch.stack([dataset[k]['latents'] for k in range(200)]))
    assert picks(LatentDataset(str(tmp_path), flip=False), range(50)) == [0] * 50


def test_flips_that_are_not_there(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match='holds no mirror images'):
        LatentDataset(str(tmp_path), flip=True)


def test_captions_one_or_several(tmp_path):
    texts = [['a', 'b', 'c'] if i % 2 else f'only {i}' for i in range(10)]
    write(tmp_path, extras=dict(caption=texts))
    dataset = LatentDataset(str(tmp_path))
    assert dataset[4]['caption'] == 'only 4'
    drawn = [dataset[1 + 10 * epoch]['caption'] for epoch in range(60)]
    assert set(drawn) == {'a', 'b', 'c'} and drawn == [dataset[1 + 10 * epoch]['caption'] for epoch in range(60)]


def test_a_loader_and_its_workers(tmp_path):
    values = write(tmp_path, dtype='float16', extras=dict(labels=list(range(10)), caption=list('abcdefghij')))
    batches = []
    for workers in (0, 2):
        loader = build_dataloader(dict(
            batch_size=4, num_workers=workers, sampler=dict(type='ResumableSampler'),
            dataset=dict(type='LatentDataset', data_root=str(tmp_path))), seed=0)
        iterator = iter(loader)
        batches.append([next(iterator) for _ in range(4)])
    order = ResumableSampler(range(10), seed=0, batch_size=4)
    for i, (a, b) in enumerate(zip(*batches)):
        expected = [order.index_at(4 * i + j) for j in range(4)]
        assert torch.equal(a['latents'], values.half()[expected]) and a['labels'].tolist() == expected
        assert torch.equal(a['latents'], b['latents']) and a['caption'] == b['caption']
    copy = pickle.loads(pickle.dumps(loader.dataset))
    assert torch.equal(copy[3]['latents'], loader.dataset[3]['latents'])


def test_metainfo_describes_them(tmp_path):
    write(tmp_path)
    info = LatentDataset(str(tmp_path)).metainfo
    assert info['classes'] == ['a', 'b'] and info['latents']['shape'] == list(SHAPE)
    assert info['latents']['data_root'] == str(tmp_path) and 'shards' not in info['latents']


# ---- damage -------------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path):
    with pytest.raises(MissingDataError, match=r'no encoded latents in .*encode_latents CONFIG.*latents\.md'):
        LatentDataset(str(tmp_path / 'nowhere'))


def test_unfinished(tmp_path):
    write(tmp_path, complete=False)
    with pytest.raises(LatentFilesError, match='unfinished: run the same'):
        LatentDataset(str(tmp_path))


def damage_cut(folder):
    file = folder / 'latents-00001.npy'
    file.write_bytes(file.read_bytes()[:-1])


def damage_missing(folder):
    (folder / 'latents-00001.npy').unlink()


def damage_records(folder):
    file = folder / 'records-00001.json'
    file.write_text(file.read_text().replace('"labels": [4', '"labels": [5'))


def damage_json(folder):
    (folder / 'records-00001.json').write_text('[1, 2')


def damage_exchanged(folder):
    for kind in ('latents-0000{}.npy', 'records-0000{}.json'):
        (folder / kind.format(1)).write_bytes((folder / kind.format(0)).read_bytes())


@pytest.mark.parametrize('damage, message', [
    (damage_cut, r'latents-00001\.npy is damaged: it has \d+ bytes instead of'),
    (damage_missing, r'latents-00001\.npy is missing'),
    (damage_records, r'records-00001\.json is damaged: its checksum'),
    (damage_json, r'records-00001\.json is damaged: it is not the JSON'),
    (damage_exchanged, r'latents-00001\.npy is not the shard that .*index\.json names'),
])
def test_damaged_shards_are_named(tmp_path, damage, message):
    write(tmp_path, extras=dict(labels=list(range(10))))
    damage(tmp_path)
    with pytest.raises(LatentFilesError, match=f'{message}.*encode_latents command of this folder again'):
        LatentDataset(str(tmp_path))


def test_a_flipped_bit_is_found_by_verify(tmp_path):
    write(tmp_path)
    file = tmp_path / 'latents-00002.npy'
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    LatentDataset(str(tmp_path))
    read_records(tmp_path, 2)
    for read in (lambda: read_records(tmp_path, 2, verify=True), lambda: LatentDataset(str(tmp_path), verify=True)):
        with pytest.raises(LatentFilesError, match=r'latents-00002\.npy is damaged: its checksum is wrong'):
            read()


def test_arrays_of_another_shape_than_the_index(tmp_path):
    write(tmp_path)
    index = json.loads((tmp_path / 'index.json').read_text())
    (tmp_path / 'index.json').write_text(json.dumps({**index, 'shape': [4, 4, 4]}))
    with pytest.raises(LatentFilesError, match=r'is an array \(4, 3, 4, 4\) of float16'):
        LatentDataset(str(tmp_path))[0]


@pytest.mark.parametrize('text, message', [
    ('{', 'is damaged'), ('{"format": "other", "version": 1}', 'is not an index'),
    ('{"format": "slimdiff-latents", "version": 99}', 'newer slimdiff')])
def test_indices_that_are_none(tmp_path, text, message):
    (tmp_path / 'index.json').write_text(text)
    with pytest.raises(LatentFilesError, match=message):
        read_index(tmp_path)

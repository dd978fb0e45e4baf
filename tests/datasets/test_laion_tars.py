import json
import os
import pickle
import sys
import tarfile
from itertools import chain

import numpy as np
import pytest
import torch
import webdataset
from pictures import assert_is, batches, encoded

from slimdiff.datasets import LaionTars, ResumableSampler, build_dataloader, samplers
from slimdiff.datasets import laion_tars as module
from slimdiff.datasets.tar_index import index_tar

SIZE = 16
PER_SHARD = 4


def write(folder, shards=3, captions=lambda i: f'picture {i}', suffixes=('jpg', 'txt', 'json')):
    """Tars as img2dataset's, whose writer is webdataset's; shard s holds the samples s * 10,000, s * 10,000 + 1, ..."""
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f'{shard:05d}.tar')) as out:
            for i in range(PER_SHARD):
                number = shard * PER_SHARD + i
                sample = dict(jpg=encoded(number, format='JPEG'), txt=captions(number), json=dict(
                    caption=captions(number), url='http://x', key=f'{shard:05d}{i:04d}', status='success', width=24,
                    height=20, exif='{}'))
                out.write(dict({k: v for k, v in sample.items() if k in suffixes}, __key__=f'{shard:05d}{i:04d}'))
        (folder / f'{shard:05d}_stats.json').write_text('{}')
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return write(tmp_path / 'laion')


def test_samples_in_the_order_of_the_tars(folder):
    dataset = LaionTars(folder, image_size=SIZE)
    assert len(dataset) == 12
    for number, sample in enumerate(dataset):
        assert set(sample) == {'inputs', 'caption'} and sample['caption'] == f'picture {number}'
        assert_is(sample, encoded(number, format='JPEG'), SIZE)


def test_the_same_samples_as_webdatasets_own_reader(folder):
    """Also where a sample has two images or none, lies in a folder, or has a name that needs a header of its own."""
    with webdataset.TarWriter(str(folder / '00003.tar')) as out:
        out.write({'__key__': 'a/b.c/1', 'mask.png': encoded(50), 'JPG': encoded(51, format='JPEG'), 'txt': 'x  y\n'})
        out.write({'__key__': '0002', 'png': encoded(52), 'txt': 'ü'})
        out.write({'__key__': '0003', 'txt': 'no image'})
        out.write({'__key__': 'k' * 150, 'webp': encoded(53, format='WEBP'), 'txt': 'a name beyond 100 characters'})
    shards = [str(folder / f'{i:05d}.tar') for i in range(4)]
    expected = []
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        image = next((sample[suffix] for suffix in ('jpg', 'png', 'webp') if suffix in sample), None)
        if image is not None:
            expected.append((image, ' '.join(sample['txt'].decode().split())))
    dataset = LaionTars(folder, image_size=SIZE)
    assert len(dataset) == len(expected) == 15
    for sample, (image, caption) in zip(dataset, expected):
        assert_is(sample, image, SIZE)
        assert sample['caption'] == caption


def test_patterns_of_shards(folder, tmp_path):
    assert len(LaionTars(folder, shards='{00001..00002}.tar')) == 8
    assert len(LaionTars(folder, shards=['00002.tar', '00000.tar'])) == 8
    assert LaionTars(folder, shards=['00002.tar', '00000.tar'], image_size=SIZE)[0]['caption'] == 'picture 8'
    for shards, message in (('{00001..00009}.tar', r"shards: there is no tar file '.*00003.tar'.*datasets.md#laion$"),
                            ('x*.tar', r"no tar file '.*x\*.tar'"), (['*.tar', '00001.tar'], '1 files are named twice'),
                            ('https://host/{0..9}.tar', 'is not on a disk')):
        with pytest.raises(ValueError, match=message):
            LaionTars(folder, shards=shards)
    with pytest.raises(ValueError, match=r"data_root: there is no folder '.*nowhere'.*#laion$"):
        LaionTars(tmp_path / 'nowhere')
    (folder / 'x.tar.gz').touch()
    with pytest.raises(ValueError, match='is compressed'):
        LaionTars(folder, shards='*.tar.gz')


def test_captions_from_json(folder, tmp_path):
    assert LaionTars(folder, caption='json', image_size=SIZE)[5]['caption'] == 'picture 5'
    other = write(tmp_path / 'none', captions=lambda i: None if i == 2 else 'x', suffixes=('jpg', 'json'))
    with pytest.raises(ValueError, match=r"00000.tar: 000000002.jpg' \(ValueError: its .json has the caption None"):
        LaionTars(other, caption='json', image_size=SIZE)[2]
    with pytest.raises(ValueError, match="'txt' or 'json'"):
        LaionTars(folder, caption='text')


# ---- ranks, workers, resuming --------------------------------------------------------------------------------------


def captions_seen(monkeypatch, dataset, rank, world_size, workers, epochs_of_12, start=0):
    """Captions that a rank's loader gives from iteration ``start`` on, a list for each batch of 2."""
    monkeypatch.setattr(samplers, 'get_dist_info', lambda: (rank, world_size))
    loader = build_dataloader(dict(dataset=dataset, batch_size=2, num_workers=workers, persistent_workers=True,
                                   sampler=dict(type='ResumableSampler'),
                                   collate_fn=dict(type='default_collate')), seed=0)
    assert isinstance(loader.sampler, ResumableSampler)
    loader.sampler.set_position(start)
    stream = iter(loader)
    return [next(stream)['caption'] for _ in range(start, epochs_of_12 * 12 // (2 * world_size))]


@pytest.mark.parametrize('workers', [0, 2])
def test_nothing_is_lost_or_doubled_over_ranks_and_workers(folder, monkeypatch, workers):
    dataset = LaionTars(folder, image_size=SIZE)
    dataset[0]  # the first tar is open before the fork
    everything = [f'picture {i}' for i in range(12)]
    one = captions_seen(monkeypatch, dataset, 0, 1, workers, 2)
    two = [captions_seen(monkeypatch, dataset, rank, 2, workers, 2) for rank in (0, 1)]
    for epoch in (0, 1):
        assert sorted(chain(*one[6 * epoch:6 * epoch + 6])) == sorted(everything)
        part = slice(3 * epoch, 3 * epoch + 3)
        assert sorted(chain(*two[0][part], *two[1][part])) == sorted(everything)
    assert one[:6] != one[6:]  # another order
    resumed = [captions_seen(monkeypatch, dataset, rank, 2, workers, 2, start=4) for rank in (0, 1)]
    assert resumed == [seen[4:] for seen in two]


def test_validation_loses_and_doubles_nothing(folder, monkeypatch):
    shares = []
    for rank in range(5):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 5))
        shares += [c for batch in batches(LaionTars(folder, image_size=SIZE)) for c in batch['caption']]
    assert sorted(shares) == sorted(f'picture {i}' for i in range(12))


def test_a_pickled_data_set_reads_the_same(folder):
    dataset = LaionTars(folder, image_size=SIZE)
    dataset[0]
    sent = pickle.dumps(dataset)
    assert torch.equal(pickle.loads(sent)[7]['inputs'], dataset[7]['inputs'])


# ---- the index -----------------------------------------------------------------------------------------------------


def test_the_index_is_made_once_and_again_for_a_tar_that_changed(folder, monkeypatch):
    made = []
    monkeypatch.setattr(module, 'index_tar', lambda path, caption: made.append(path.name) or index_tar(path, caption))
    first = LaionTars(folder, image_size=SIZE)
    assert made == ['00000.tar', '00001.tar', '00002.tar'] and isinstance(first._samples.array, np.memmap)
    assert first._samples.array.dtype.itemsize == 24  # bytes for a sample
    again = LaionTars(folder, image_size=SIZE)
    assert len(made) == 3 and again._samples.file == first._samples.file
    with webdataset.TarWriter(str(folder / '00001.tar')) as out:
        out.write({'__key__': '1', 'jpg': encoded(9, format='JPEG'), 'txt': 'new'})
    assert len(LaionTars(folder)) == 9 and made[3:] == ['00001.tar']
    LaionTars(folder, shards='00000.tar')  # another selection does not push out the first
    assert len(LaionTars(folder)) == 9 and len(made) == 4
    assert not list((folder / '.slimdiff').glob('.*'))  # no temporary files


def test_an_interrupted_indexing_goes_on_and_ranks_share_it(folder, monkeypatch):
    made = []

    def interrupted(path, caption):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(path.name)
        return index_tar(path, caption)

    monkeypatch.setattr(module, 'index_tar', interrupted)
    monkeypatch.setattr(module, 'get_dist_info', lambda: (1, 2))  # starts in the middle
    with pytest.raises(KeyboardInterrupt):
        LaionTars(folder)
    assert made == ['00001.tar', '00002.tar']
    monkeypatch.setattr(module, 'index_tar', lambda path, caption: made.append(path.name) or index_tar(path, caption))
    monkeypatch.setattr(module, 'get_dist_info', lambda: (0, 2))
    dataset = LaionTars(folder, image_size=SIZE)
    assert made == ['00001.tar', '00002.tar', '00000.tar']
    assert [sample['caption'] for sample in dataset] == [f'picture {i}' for i in range(12)]


def test_few_files_are_open_at_a_time(folder):
    dataset = LaionTars(folder, image_size=SIZE)
    dataset._reader.limit = 2
    for k in (0, 4, 8, 1, 5, 9):
        assert dataset[k]['caption'] == f'picture {k}'
        assert len(dataset._reader._open) <= 2
    before = len(os.listdir('/proc/self/fd'))
    dataset._reader.close()
    assert len(os.listdir('/proc/self/fd')) == before - 2


# ---- damage --------------------------------------------------------------------------------------------------------


def member_offsets(path):
    with tarfile.open(path) as archive:
        return {member.name: (member.offset, member.offset_data, member.size) for member in archive}


def cut(path, places):
    os.truncate(path, places['000010002.jpg'][1] + 100)


def cut_between(path, places):  # the writer was killed between two samples
    os.truncate(path, places['000010002.jpg'][0])


def bad_header(path, places):
    with open(path, 'r+b') as file:
        file.seek(places['000010002.jpg'][0])
        file.write(b'\x99' * 512)


def zeros(path, places):
    with open(path, 'r+b') as file:
        file.seek(places['000010002.jpg'][0])
        file.write(b'\0' * 512)


def a_page_of_html(path, places):
    path.write_text('<html>404</html>' * 100)


@pytest.mark.parametrize('damage, message, kept', [
    (cut, r"00001.tar: cut off in '000010002.jpg'", 10),
    (cut_between, r"00001.tar: cut off after '000010001.txt' \(the mark of its end is missing\)", 10),
    (bad_header, r"00001.tar: damaged after '000010001.txt' \(no header at byte \d+\)", 10),
    (zeros, r"00001.tar: damaged after '000010001.txt' \(no header at byte \d+\)", 10),
    (a_page_of_html, r'00001.tar: no tar \(', 8),
])
def test_a_damaged_tar_is_named_or_left_out_and_counted(folder, damage, message, kept):
    path = folder / '00001.tar'
    places = member_offsets(path)
    # webdataset writes the parts of a sample in the alphabetical order of their suffixes
    assert list(places)[:3] == ['000010000.jpg', '000010000.json', '000010000.txt']
    damage(path, places)
    for _ in range(2):  # the second start names it as well
        with pytest.raises(ValueError, match=r'1 broken tar files .*' + message + ".*on_error='skip'"):
            LaionTars(folder)
    for _ in range(2):
        dataset = LaionTars(folder, image_size=SIZE, on_error='skip')
        assert dataset.skipped == 1 and dataset.skipped_files[0].startswith('00001.tar: ')
        # The samples before the damage are used, and those of the other tars.
        numbers = [*range(4), *range(4, kept - 4), *range(8, 12)]
        assert [sample['caption'] for sample in dataset] == [f'picture {i}' for i in numbers]


def test_images_without_a_caption(folder, tmp_path):
    with webdataset.TarWriter(str(folder / '00001.tar')) as out:
        out.write({'__key__': '000010002', 'jpg': encoded(6, format='JPEG'), 'json': {}})
    write(tmp_path / 'more', captions=lambda i: '' if i in (1, 11) else 'x')
    for _ in range(2):  # also from the kept index
        with pytest.raises(ValueError, match='1 images without a caption .*: 00001.tar: 000010002.jpg'):
            LaionTars(folder)
        with pytest.raises(ValueError, match='2 images without a caption .*00000.tar: 000000001.jpg, 00002.tar: 0000'):
            LaionTars(tmp_path / 'more')
        dataset = LaionTars(tmp_path / 'more', image_size=SIZE, on_error='skip')
        assert len(dataset) == 10 and dataset.skipped == 2
        assert dataset.skipped_files == ['00000.tar: 000000001.jpg', '00002.tar: 000020003.jpg']
        assert_is(dataset[1], encoded(2, format='JPEG'), SIZE)
    write(tmp_path / 'silent', suffixes=('jpg', 'json'))
    with pytest.raises(ValueError, match=r"12 images without a caption .*caption='json'"):
        LaionTars(tmp_path / 'silent')
    with pytest.raises(ValueError, match='no image with a caption in its 3 tars'):
        LaionTars(tmp_path / 'silent', on_error='skip')


@pytest.mark.parametrize('workers', [0, 2])
def test_a_broken_image_is_named_with_its_tar_and_skipped_on_request(folder, workers):
    path = folder / '00002.tar'
    _, offset, size = member_offsets(path)['000020001.jpg']
    with open(path, 'r+b') as file:
        file.seek(offset)
        file.write(b'\0' * size)
    with pytest.raises(ValueError, match=r"Cannot read image '.*/laion/00002.tar: 000020001.jpg' \(Unidentified"):
        LaionTars(folder, image_size=SIZE)[9]
    dataset = LaionTars(folder, image_size=SIZE, on_error='skip')
    seen = [caption for batch in batches(dataset, workers) for caption in batch['caption']]
    assert seen[9] == 'picture 10'  # with its own caption
    assert dataset.skipped == 1 and dataset.skipped_files[0].endswith('00002.tar: 000020001.jpg')


def test_a_tar_that_shrinks_while_it_is_read(folder):
    dataset = LaionTars(folder, image_size=SIZE, on_error='skip')
    os.truncate(folder / '00002.tar', 100)
    assert dataset[8]['caption'] == 'picture 0' and dataset.skipped == 4


def test_without_the_package_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'webdataset.shardlists', None)
    with pytest.raises(ImportError, match=r"'webdataset'.*pip install .*\[datasets\]'"):
        LaionTars(folder)


def test_the_json_of_the_test_is_img2datasets(folder):
    places = member_offsets(folder / '00000.tar')
    _, offset, size = places['000000000.json']
    assert json.loads((folder / '00000.tar').read_bytes()[offset:offset + size])['key'] == '000000000'


# ---- nothing is left out without a word ------------------------------------------------------------------------------


def test_names_with_several_dots_are_samples_of_their_own_or_named(tmp_path, monkeypatch):
    """webdataset cuts at the first dot, where 22.05 and 22 are one sample, of which it would give one image."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with webdataset.TarWriter(str(tmp_path / '0.tar')) as out:
        for key, suffix, format in (('22.05', 'png', 'PNG'), ('22', 'png', 'PNG'), ('a.b/1.x', 'GIF', 'GIF')):
            out.write({'__key__': key, suffix: encoded(len(key), format=format), 'txt': f'\ufeffcaption {key}'})
        out.write({'__key__': '3', 'jpg': encoded(3, format='JPEG'), 'jpe': encoded(4), 'mask.png': encoded(5),
                   'txt': 'one image of three'})
        out.write({'__key__': '4', 'txt': 'no image'})
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda line, **_: lines.append(line))
    for count in (1, 2):  # the second reads the kept index
        dataset = LaionTars(tmp_path, image_size=SIZE)
        # Neither a byte order mark in a caption, nor a sample that vanishes.
        assert [s['caption'] for s in dataset] == ['caption 22.05', 'caption 22', 'caption a.b/1.x',
                                                   'one image of three']
        assert_is(dataset[0], encoded(5), SIZE)
        assert_is(dataset[1], encoded(2), SIZE)
        assert len(lines) == count and 'Left out 3 images and captions' in lines[-1] and '0.tar: 3.jpe' in lines[-1]

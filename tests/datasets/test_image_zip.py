import json
import pickle
import zipfile

import pytest
import torch
from pictures import assert_is, batches, encoded

from slimdiff.datasets import ImageZip, image_folder

MEMBERS = {'ffhq/00000/00001.png': 1, 'ffhq/00000/00000.png': 2, 'ffhq/01000/01000.jpg': 3, 'other/x.webp': 4}
FORMATS = {'png': 'PNG', 'jpg': 'JPEG', 'webp': 'WEBP'}


def content_of(name):
    return encoded(MEMBERS[name], format=FORMATS[name.rsplit('.')[-1]])


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=['stored', 'deflated'])
def archive(request, tmp_path):
    path = tmp_path / 'faces.zip'
    with zipfile.ZipFile(path, 'w', request.param) as out:
        out.mkdir('ffhq')
        for name in MEMBERS:
            out.writestr(name, content_of(name))
        out.writestr('ffhq/LICENSE.txt', 'x' * 1000)
        out.writestr('__MACOSX/ffhq/00000/00000.png', b'resource fork')
        out.writestr('ffhq/00000/.00009.png', b'hidden')
    return path


def test_images_are_those_of_the_members_in_sorted_order(archive):
    dataset = ImageZip(archive, image_size=16)
    assert dataset.files == sorted(MEMBERS) and len(dataset) == 4
    for name, sample in zip(sorted(MEMBERS), dataset):
        assert set(sample) == {'inputs'}
        assert_is(sample, content_of(name), 16)


def test_folder_part_and_classes_from_folders(archive):
    dataset = ImageZip(archive, image_size=16, folder='/ffhq/', class_from_folder=True)
    assert dataset.classes == ['00000', '01000'] and [s['labels'] for s in dataset] == [0, 0, 1]
    assert dataset.metainfo['dataset'] == 'ImageZip' and dataset.num_classes == 2
    part = ImageZip(archive, image_size=16, part=(1, 3))
    assert part.files == sorted(MEMBERS)[1:3]
    assert_is(part[1], content_of('ffhq/01000/01000.jpg'), 16)
    for wrong in ((0, 5), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match='<= 4'):
            ImageZip(archive, part=wrong)


def test_workers_read_what_the_main_process_reads(archive):
    dataset = ImageZip(archive, image_size=16, class_from_folder=True)
    expected = torch.stack([sample['inputs'] for sample in dataset])  # the file is open before the fork
    got = batches(dataset, workers=2, batch_size=1)
    assert torch.equal(torch.cat([batch['inputs'] for batch in got]), expected)
    assert torch.cat([batch['labels'] for batch in got]).tolist() == [0, 0, 0, 1]
    sent = pickle.loads(pickle.dumps(dataset))  # as to a spawned worker
    assert torch.equal(torch.stack([sample['inputs'] for sample in sent]), expected)


def stylegan(tmp_path, labels, name='stylegan.zip'):
    """As dataset_tool.py of StyleGAN writes it."""
    path = tmp_path / name
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as out:
        for i in range(4):
            out.writestr(f'00000/img{i:08d}.png', encoded(i, (16, 16)))
        if labels != 'no file':
            out.writestr('dataset.json', labels if isinstance(labels, str) else json.dumps(dict(labels=labels)))
    return path


def pairs(*labels):
    return [[f'00000/img{i:08d}.png', label] for i, label in enumerate(labels)]


def test_classes_from_stylegans_json(tmp_path):
    path = stylegan(tmp_path, pairs(3, 0, 1, 3))
    assert 'labels' not in ImageZip(path, 16)[0]
    dataset = ImageZip(path, 16, class_from_json=True)
    assert [s['labels'] for s in dataset] == [3, 0, 1, 3] and dataset.classes == ['0', '1', '2', '3']
    assert ImageZip(path, 16, class_from_json=True, num_classes=10).num_classes == 10
    assert ImageZip(path, 16, class_from_json=True, classes=list('abcd')).classes == ['a', 'b', 'c', 'd']


@pytest.mark.parametrize('labels, arguments, message', [
    (None, {}, 'holds no labels'),
    ('no file', {}, 'is not in it'),
    ('{"labels": [', {}, 'is not valid JSON'),
    (pairs(0, 1, [0.5, 0.5], 0), {}, r"img00000002.png' in .* is \[0.5, 0.5\], not a class number"),
    (pairs(0, 1, -1, 0), {}, 'is -1, not a class number'),
    (pairs(0, 1000, 1, 0), dict(num_classes=1000),
     r"Label out of range: '00000/img00000001.png' .* has label 1000, .* 0 to 999, and 1000 is the null class"),
    (pairs(0, 1, 2, 3), dict(classes=['a', 'b', 'c']), 'label 3, but there are 3 classes'),
    (pairs(0, 1), {}, r"2 images without a label .*: 00000/img00000002.png, 00000/img00000003.png"),
    (pairs(0, 1, 2, 3), dict(class_from_folder=True), 'both set'),
])
def test_wrong_labels(tmp_path, labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageZip(stylegan(tmp_path, labels), 16, class_from_json=True, **arguments)


def test_images_without_a_label_are_left_out_on_request(tmp_path):
    dataset = ImageZip(stylegan(tmp_path, pairs(5, 1)), 16, class_from_json=True, on_error='skip')
    assert [s['labels'] for s in dataset] == [5, 1]
    assert dataset.skipped == 2 and dataset.skipped_files == ['00000/img00000002.png', '00000/img00000003.png']


def damage(archive, name):
    """Change a byte of a member's content; returns the archive."""
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo(name)
    data = bytearray(archive.read_bytes())
    data[info.header_offset + 30 + len(name) + info.compress_size // 2] ^= 0xFF
    archive.write_bytes(data)
    return archive


@pytest.mark.parametrize('workers', [0, 2])
def test_damaged_members_are_named_or_skipped_and_counted(archive, workers):
    name = 'ffhq/00000/00001.png'
    damage(archive, name)
    with pytest.raises(ValueError, match=rf"faces.zip/{name}' \(ValueError: its (checksum is wrong|compressed data)"):
        ImageZip(archive, 16)[1]
    dataset = ImageZip(archive, 16, on_error='skip')
    inputs = torch.cat([batch['inputs'] for batch in batches(dataset, workers)])
    assert_is(dict(inputs=inputs[1]), content_of('ffhq/01000/01000.jpg'), 16)  # the next one takes its place
    assert dataset.skipped == 1 and dataset.skipped_files == [name]


def test_missing_and_broken_archives(archive, tmp_path):
    with pytest.raises(ValueError, match=r"no zip archive '.*nowhere.zip'.*datasets.md#ffhq-celeba-hq-afhq$"):
        ImageZip(tmp_path / 'nowhere.zip')
    with pytest.raises(ValueError, match="is a folder.*type='ImageFolder'"):
        ImageZip(tmp_path)
    with pytest.raises(ValueError, match=r"no image under 'celeba/' in .* ffhq/, other/.*\.png"):
        ImageZip(archive, folder='celeba')
    short = tmp_path / 'short.zip'
    short.write_bytes(archive.read_bytes()[:-400])
    with pytest.raises(ValueError, match='cut off .*unzip -t'):
        ImageZip(short)
    with zipfile.ZipFile(tmp_path / 'rare.zip', 'w', zipfile.ZIP_BZIP2) as out:
        out.writestr('a.png', encoded(0))
    with pytest.raises(ValueError, match="'a.png' in .* is compressed by method 12.*zip -0"):
        ImageZip(tmp_path / 'rare.zip')
    with pytest.raises(ValueError, match=r"LoadImageFromFile does not read. .*LoadImage"):
        ImageZip(archive, 16, pipeline=[dict(type='LoadImageFromFile'), dict(type='PackImage')])


def test_the_index_is_arrays_and_pickles_without_an_open_file(tmp_path):
    path = tmp_path / 'many.zip'
    with zipfile.ZipFile(path, 'w') as out:
        for i in range(2000):
            out.writestr(f'{i:05d}.png', b'')
    dataset = ImageZip(path, 16)
    # 28 bytes of place, 9 of name and 8 of its end for each; zipfile's own objects take 500.
    assert dataset._zip._members.nbytes + dataset.files.nbytes < 50 * 2000
    assert len(pickle.dumps(dataset)) < 60 * 2000


def test_other_members_are_named_and_every_format_is_read(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(image_folder, 'print_log', lambda line, **_: lines.append(line))
    with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as out:
        out.writestr('a/1.gif', encoded(1, format='GIF'))
        out.writestr('a/2.jfif', encoded(2, format='JPEG'))
        out.writestr('a/3.heic', b'?')
        out.writestr('dataset.json', '{}')
    dataset = ImageZip(tmp_path / 'x.zip', image_size=16)
    assert dataset.files == ['a/1.gif', 'a/2.jfif']
    assert_is(dataset[1], encoded(2, format='JPEG'), 16)
    assert len(lines) == 1 and 'Left out 1 files' in lines[0] and '.heic (1)' in lines[0]

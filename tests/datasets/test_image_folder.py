import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from slimdiff.datasets import ImageFolder, build_dataloader, image_folder
from slimdiff.datasets import records as module


@pytest.fixture
def folder(tmp_path):
    """Six images of different sizes in two sub-folders, and things that are none."""
    rng = np.random.default_rng(0)
    for name, (height, width) in {'b/2.png': (40, 60), 'b/1.JPG': (64, 48), 'a/x/3.webp': (33, 90), 'a/4.png': (32, 32),
                                  'a/5.bmp': (20, 20), 'b/10.tif': (101, 64)}.items():
        path = tmp_path / 'data' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    root = tmp_path / 'data'
    (root / 'a/notes.txt').write_text('no image')
    (root / 'a/._4.png').write_bytes(b'resource fork of a Mac')
    (root / '.cache').mkdir()
    (root / '.cache/thumb.png').write_bytes(b'')
    return root


ORDER = ['a/4.png', 'a/5.bmp', 'a/x/3.webp', 'b/1.JPG', 'b/10.tif', 'b/2.png']


def by_pillow(path, size):
    """VQGAN's preprocessing in a few lines of pillow: short side to `size`, centre crop, [-1, 1]."""
    image = Image.open(path).convert('RGB')
    width, height = image.size
    short = min(width, height)
    image = image.resize((round(width * size / short), round(height * size / short)), Image.Resampling.LANCZOS)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 127.5 - 1


@pytest.mark.parametrize('size', [24, 32, 33])
def test_default_is_vqgan_preprocessing(folder, size):
    dataset = ImageFolder(folder, image_size=size)
    assert dataset.files == ORDER
    for name, sample in zip(ORDER, dataset):
        assert set(sample) == {'inputs'} and sample['inputs'].dtype == torch.float32
        torch.testing.assert_close(sample['inputs'].double(), by_pillow(folder / name, size), atol=1e-6, rtol=0)


def test_classes_from_folders(folder):
    dataset = ImageFolder(folder, image_size=16, class_from_folder=True)
    assert dataset.classes == ['a', 'b'] and dataset.num_classes == 2 and dataset.metainfo['classes'] == ['a', 'b']
    assert [sample['labels'] for sample in dataset] == [0, 0, 0, 1, 1, 1]
    swapped = ImageFolder(folder, image_size=16, class_from_folder=True, classes=['c', 'b', 'a'])
    assert [sample['labels'] for sample in swapped] == [2, 2, 2, 1, 1, 1] and swapped.num_classes == 3
    assert ImageFolder(folder, image_size=16).num_classes == 0


def test_class_errors(folder):
    with pytest.raises(ValueError, match=r"Label out of range: the sub-folders \['b'\]"):
        ImageFolder(folder, class_from_folder=True, classes=['a'])
    shutil.copy(folder / 'a/4.png', folder / 'loose.png')
    with pytest.raises(ValueError, match="directly in data_root, the first is 'loose.png'"):
        ImageFolder(folder, class_from_folder=True)
    with pytest.raises(ValueError, match='class_from_folder is False'):
        ImageFolder(folder, classes=['a', 'b'])


def test_empty_and_missing_folders(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty/readme.txt').write_text('')
    with pytest.raises(ValueError, match=r'no image in .*empty.*\.jpg.*\.png'):
        ImageFolder(tmp_path / 'empty')
    with pytest.raises(ValueError, match='there is no folder .*nowhere'):
        ImageFolder(tmp_path / 'nowhere')


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])


def test_a_folder_that_cannot_be_read_is_an_error(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith('/b'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(ValueError, match=r"folder '.*/b' cannot be read \(Permission denied\).*move it out"):
        ImageFolder(folder)


def test_links_are_followed_but_not_in_circles(folder):
    (folder / 'a/back').symlink_to('..')
    (folder / 'c').symlink_to('b')
    assert ImageFolder(folder).files == [*ORDER, *(name.replace('b/', 'c/') for name in ORDER[3:])]
    (folder / 'b/other').symlink_to('../a')  # each lies in the other
    (folder / 'a/other').symlink_to('../b')
    assert 'b/other/4.png' in ImageFolder(folder).files and len(ImageFolder(folder)) < 40


@pytest.mark.parametrize('steps', [[], [dict(type='LoadImage')], [dict(type='PackImage'), dict(type='LoadImage')]])
def test_a_pipeline_that_makes_no_sample_is_refused(folder, steps):
    with pytest.raises(ValueError, match=r"the last step of ImageFolder must be dict\(type='PackImage'\)"):
        ImageFolder(folder, pipeline=steps)


def test_unreadable_image_is_named(folder):
    truncate(folder / 'b/1.JPG')
    (folder / 'b/10.tif').write_bytes(b'not an image')
    dataset = ImageFolder(folder, image_size=16)
    dataset[2]
    with pytest.raises(ValueError, match=r"Cannot read image '.*b/1\.JPG' \(OSError: .*truncated.*on_error='skip'"):
        dataset[3]
    with pytest.raises(ValueError, match=r'b/10\.tif'):
        dataset[4]


@pytest.mark.parametrize('workers', [0, 2])
def test_skipped_images_are_replaced_by_the_next_and_counted(folder, workers, monkeypatch):
    truncate(folder / 'b/10.tif')
    (folder / 'b/2.png').write_bytes(b'')
    logged = []
    monkeypatch.setattr(module, 'print_log', lambda message, **_: logged.append(message))
    dataset = ImageFolder(folder, image_size=16, class_from_folder=True, on_error='skip')
    good = ImageFolder(folder, image_size=16)
    loader = build_dataloader(dict(dataset=dataset, batch_size=3, num_workers=workers, persistent_workers=True,
                                   sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
                                   collate_fn=dict(type='default_collate')), seed=0)
    for _ in range(2):
        batches = list(loader)
        inputs = torch.cat([batch['inputs'] for batch in batches])
        # 10.tif and 2.png stand at the end, so the first image, with its own label, takes the place of both.
        for position, item in enumerate([0, 1, 2, 3, 0, 0]):
            assert torch.equal(inputs[position], good[item]['inputs'])
        assert torch.cat([batch['labels'] for batch in batches]).tolist() == [0, 0, 0, 1, 0, 0]
    assert dataset.skipped == 2 and dataset.skipped_files == ['b/10.tif', 'b/2.png']
    if workers == 0:  # once each, though both epochs met them
        assert len(logged) == 2 and 'b/10.tif' in logged[0] and '2 of 6' in logged[1]


def test_all_unreadable_is_an_error(tmp_path):
    for name in ('a.png', 'b.png'):
        (tmp_path / name).write_bytes(b'nothing')
    with pytest.raises(ValueError, match='None of the 2 images'):
        ImageFolder(tmp_path, on_error='skip')[0]


RANDOM = [dict(type='LoadImage'), dict(type='ResizeShortSide', size=16), dict(type='CenterCrop', crop_size=16),
          dict(type='RandomFlip', prob=0.5), dict(type='PackImage')]


def test_random_transforms_depend_on_seed_and_index_only(folder):
    dataset = ImageFolder(folder, image_size=16, pipeline=RANDOM)
    plain = ImageFolder(folder, image_size=16)
    np.random.seed(5)
    state = np.random.get_state()[1].copy()
    indices = range(0, 600, 6)  # the first image in a hundred epochs
    first = [dataset[k]['inputs'] for k in indices]
    assert (np.random.get_state()[1] == state).all()
    np.random.seed(6)
    assert all(torch.equal(a, dataset[k]['inputs']) for a, k in zip(first, indices))
    flipped = [torch.equal(a, plain[0]['inputs'].flip(2)) for a in first]
    assert all(f or torch.equal(a, plain[0]['inputs']) for f, a in zip(flipped, first))
    assert 30 < sum(flipped) < 70  # four standard deviations
    other = ImageFolder(folder, image_size=16, pipeline=RANDOM, seed=1)
    assert not all(torch.equal(a, other[k]['inputs']) for a, k in zip(first, indices))


def test_any_number_of_workers_gives_the_same_data(folder):
    def epochs(workers):
        loader = build_dataloader(dict(dataset=dict(type='ImageFolder', data_root=str(folder), image_size=16,
                                                    pipeline=RANDOM), batch_size=4, num_workers=workers,
                                       sampler=dict(type='ResumableSampler'), collate_fn=dict(type='default_collate'),
                                       persistent_workers=True, prefetch_factor=2), seed=0)
        batches = iter(loader)
        return torch.cat([next(batches)['inputs'] for _ in range(6)])

    assert torch.equal(epochs(0), epochs(2))


def test_pipeline_of_another_size_is_refused_also_when_skipping(folder):
    steps = [dict(type='LoadImage'), dict(type='ResizeShortSide', size=16), dict(type='PackImage')]
    dataset = ImageFolder(folder, image_size=16, pipeline=steps, on_error='skip')
    dataset[0]  # a square one
    with pytest.raises(ValueError, match=r"x/3\.webp' comes out as \(3, 16, 44\)"):
        dataset[2]
    assert dataset.skipped == 0


def test_mmcv_loader_and_resize_work_too(folder):
    steps = [dict(type='LoadImageFromFile', imdecode_backend='pillow'), dict(type='Resize', scale=(8, 8)),
             dict(type='PackImage')]
    assert ImageFolder(folder, image_size=8, pipeline=steps)[0]['inputs'].shape == (3, 8, 8)


def test_bad_arguments(folder):
    with pytest.raises(ValueError, match='image_size must be'):
        ImageFolder(folder, image_size=0)
    with pytest.raises(ValueError, match="'raise' or 'skip'"):
        ImageFolder(folder, on_error='ignore')
    with pytest.raises(IndexError, match='at least 0'):
        ImageFolder(folder)[-1]


def test_every_file_that_pillow_reads_is_read_and_the_rest_named(tmp_path, monkeypatch):
    lines, pixels = [], np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    monkeypatch.setattr(image_folder, 'print_log', lambda line, **_: lines.append(line))
    written = {name: Image.fromarray(pixels) for name in (
        'a.jfif', 'b.jpe', 'c.gif', 'd.PNG', 'e.tga', 'f.jp2', 'g.qoi', 'h.sgi', 'i.apng', 'j.dib', 'k.ico')}
    written |= {'l.pgm': Image.fromarray(pixels[:, :, 0]), 'm.pbm': Image.fromarray(pixels[:, :, 0] > 128)}
    if '.avif' in image_folder.image_extensions():
        written['n.avif'] = Image.fromarray(pixels)
    for name, image in written.items():
        image.save(tmp_path / name)
    for name in ('x.heic', 'y.mpg', 'z.eps', 'notes', 'w.heic'):
        (tmp_path / name).write_bytes(b'?')
    dataset = ImageFolder(tmp_path, image_size=16)
    assert dataset.files == sorted(written)
    for sample, name in zip(dataset, dataset.files):
        torch.testing.assert_close(sample['inputs'].double(), by_pillow(tmp_path / name, 16), atol=1e-6, rtol=0)
    assert len(lines) == 1 and 'Left out 5 files' in lines[0]
    assert all(word in lines[0] for word in ('.heic (2)', '.mpg (1)', '.eps (1)', '(none) (1)', "'notes'"))

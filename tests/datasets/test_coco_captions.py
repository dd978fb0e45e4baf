import json
import os

import pytest
import torch
from mmengine.model import BaseDataPreprocessor
from pictures import assert_is, batches, encoded

from slimdiff.datasets import CocoCaptions, PackImage

CAPTIONS = {139: ['A cat.', 'The cat sits.', 'Cat on a mat.'], 285: ['A bear.'], 724: ['Stop sign', 'A red sign']}


def write(root, images=(139, 285, 724), captions=CAPTIONS, files=(139, 285, 724), split='train2017'):
    """COCO's folders, with the fields that its files have."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / 'annotations').mkdir(exist_ok=True)
    for i in files:
        (root / split / f'{i:012d}.jpg').write_bytes(encoded(i, format='JPEG'))
    annotations = [dict(image_id=i, id=1000 * i + j, caption=text) for i, texts in captions.items()
                   for j, text in enumerate(texts)]
    (root / f'annotations/captions_{split}.json').write_text(json.dumps(dict(
        info=dict(year=2017), licenses=[],
        images=[dict(license=3, file_name=f'{i:012d}.jpg', coco_url='', height=20, width=24, id=i) for i in images],
        annotations=annotations[::-1])))
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path)


def test_images_sorted_and_the_first_caption(root):
    dataset = CocoCaptions(root, caption='first', image_size=16)
    assert dataset.files == ['000000000139.jpg', '000000000285.jpg', '000000000724.jpg']
    assert [s['caption'] for s in dataset] == ['A cat.', 'A bear.', 'Stop sign']  # lowest id, not first in the file
    for i, sample in zip(CAPTIONS, dataset):
        assert set(sample) == {'inputs', 'caption'}
        assert_is(sample, encoded(i, format='JPEG'), 16)
    assert dataset.captions_of(2) == CAPTIONS[724]


def test_captions_are_drawn_from_seed_and_index_alone(root):
    dataset = CocoCaptions(root, image_size=16)
    drawn = [dataset.load(0, k)['caption'] for k in range(0, 3 * 300, 3)]
    counts = [drawn.count(text) for text in CAPTIONS[139]]
    assert sum(counts) == 300 and all(abs(count - 100) < 5 * 8.2 for count in counts)  # 8.2 = sqrt(300 * 2 / 9)
    again = CocoCaptions(root, image_size=16)
    assert [again[k]['caption'] for k in range(30)] == [dataset[k]['caption'] for k in range(30)]
    other = CocoCaptions(root, image_size=16, seed=1)
    assert drawn != [other.load(0, k)['caption'] for k in range(0, 3 * 300, 3)]


@pytest.mark.parametrize('workers', [0, 2])
def test_the_model_would_be_given_a_list_of_strings(root, workers):
    dataset = CocoCaptions(root, image_size=16)
    first, second = batches(dataset, workers)
    assert first['caption'] == [dataset[0]['caption'], 'A bear.'] and first['inputs'].shape == (2, 3, 16, 16)
    assert len(second['caption']) == 1
    cast = BaseDataPreprocessor()(first)  # what mmengine's train_step does before forward(**data)
    assert type(cast['caption']) is list and cast['caption'] == first['caption']
    assert torch.equal(cast['inputs'], first['inputs'])


@pytest.mark.parametrize('change, message, left', [
    (dict(images=(139, 285)), r"1 image ids that have captions but are not in the list .*: image 724\.", 2),
    (dict(files=(139, 724)), r"1 images that 'captions_train2017.json' lists but that lack .*: 000000000285.jpg\.", 1),
    (dict(captions={139: ['A cat.'], 285: [' \n'], 724: ['x']}), r'1 images without a caption .*: 000000000285.jpg', 1),
    (dict(files=(139, 285, 724, 999)), r'1 images without a caption .*: 000000000999.jpg', 1),
])
def test_images_and_captions_must_match(tmp_path, change, message, left):
    root = write(tmp_path, **change)
    with pytest.raises(ValueError, match=message + ".*on_error='skip'"):
        CocoCaptions(root)
    dataset = CocoCaptions(root, image_size=16, on_error='skip')
    # An image that the list lacks is two things: captions without an image, and a file without a caption.
    assert dataset.skipped == left
    assert len(dataset) == (3 if len(change.get('files', ())) == 4 else 2)
    assert all(sample['caption'] for sample in dataset)


def test_a_split_with_the_captions_of_another(root):
    write(root, images=(1, 2), captions={1: ['a'], 2: ['b']}, files=(), split='val2017')
    os.rename(root / 'val2017', root / 'away')
    os.rename(root / 'train2017', root / 'val2017')
    with pytest.raises(ValueError, match='2 images that .* lists but that lack'):
        CocoCaptions(root, 'val2017')
    with pytest.raises(ValueError, match='Do they belong together'):
        CocoCaptions(root, 'val2017', on_error='skip')


def test_missing_and_broken_files(root):
    with pytest.raises(ValueError, match=r"no folder '.*val2017'.*datasets.md#coco$"):
        CocoCaptions(root, 'val2017')
    file = root / 'annotations/captions_train2017.json'
    content = file.read_text()
    file.write_text(content[:-40])
    with pytest.raises(ValueError, match='is not valid JSON, or was cut off'):
        CocoCaptions(root)
    file.write_text(json.dumps(dict(images=[], annotations=[dict(id=1, bbox=[0, 0, 1, 1], image_id=3)])))
    with pytest.raises(ValueError, match=r"KeyError: 'caption'.*not instances_\*\.json"):
        CocoCaptions(root)
    file.unlink()
    with pytest.raises(ValueError, match="no file '.*captions_train2017.json'"):
        CocoCaptions(root)
    with pytest.raises(ValueError, match="'random' or 'first'"):
        CocoCaptions(root, caption='all')


def test_the_index_stays_small(tmp_path):
    """Five captions of 52 letters, as COCO's, for 2,000 images: letters and ends, no Python object each."""
    ids = range(1, 2001)
    root = write(tmp_path, images=ids, captions={i: ['x' * 52] * 5 for i in ids}, files=())
    for i in ids:
        (root / 'train2017' / f'{i:012d}.jpg').touch()
    dataset = CocoCaptions(root)
    index = dataset.files.nbytes + dataset._captions.nbytes + dataset._first.nbytes
    assert index < 2000 * (16 + 8 + 5 * (52 + 8) + 8 + 1)


def test_pack_image_keeps_the_caption():
    import numpy as np
    packed = PackImage()(dict(img=np.zeros((4, 4, 3), np.uint8), caption='x', gt_label=np.int64(3), other=1))
    assert packed['caption'] == 'x' and packed['labels'] == 3 and set(packed) == {'inputs', 'labels', 'caption'}

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate

from slimdiff.datasets import PhotoPatches
from slimdiff.datasets.photo_patches import DEFAULT_PHOTOS, PHOTOS, block_edges, crop_positions, load_photo


def covered(dataset, label, indices):
    """Boolean mask of the pixels of one photo that any of the crops touches."""
    mask = np.zeros(dataset._photos[label].shape[:2], bool)
    labels, corners = dataset.locate(indices)
    for top, left in corners[labels == label]:
        mask[top:top + dataset.image_size, left:left + dataset.image_size] = True
    return mask


def test_blocks_cut_a_side_into_even_parts():
    assert block_edges(256, 32) == [0, 64, 128, 192, 256]
    assert block_edges(100, 32) == [0, 50, 100]  # two blocks of 50 rather than one, for both splits to have some
    assert block_edges(60, 32) == [0, 60]


@pytest.mark.parametrize('image_size', [16, 32, 64])
def test_no_pixel_is_in_both_splits_and_both_cover_the_photo(image_size):
    train = PhotoPatches(image_size, split='train', photos=list(PHOTOS))
    val = PhotoPatches(image_size, split='val', photos=list(PHOTOS))
    for photo in train._photos:
        masks = []
        for split in ('train', 'val'):  # every crop that a split could ever give, not a sample of them
            mask = np.zeros(photo.shape[:2], bool)
            for top, left in crop_positions(*photo.shape[:2], image_size, split):
                mask[top:top + image_size, left:left + image_size] = True
            masks.append(mask)
        assert not (masks[0] & masks[1]).any()
        assert (masks[0] | masks[1]).all()
        assert 0.3 < masks[0].mean() < 0.7
        for quarter in np.array_split(np.arange(photo.shape[1]), 2):  # interleaved: each half of the photo has both
            assert masks[0][:, quarter].any() and masks[1][:, quarter].any()
    sample = range(400)
    for label in range(train.num_classes):
        assert not (covered(train, label, sample) & covered(val, label, sample)).any()


def test_number_of_positions_by_hand():
    # 256 x 256 has 4 x 4 blocks of 64, 8 of a split, each with (64 - 32 + 1)^2 corners.
    assert len(crop_positions(256, 256, 32, 'train')) == 8 * 33 * 33
    assert len(crop_positions(256, 256, 32, 'val')) == 8 * 33 * 33


def test_a_sample_is_the_photo_at_its_place():
    dataset = PhotoPatches(seed=3)
    for k in (0, 5, 123_456_789):
        sample = dataset[k]
        labels, corners = dataset.locate([k])
        (top, left), photo = corners[0], load_photo(dataset.classes[labels[0]], 256)
        expected = photo[top:top + 32, left:left + 32].astype(np.float64) / 127.5 - 1
        np.testing.assert_allclose(sample['inputs'].numpy(), expected.transpose(2, 0, 1), atol=1e-6)
        assert sample['inputs'].dtype == torch.float32 and sample['labels'] == k % 12


def test_crop_is_a_function_of_seed_and_index_only():
    one, other = PhotoPatches(seed=1, length=10), PhotoPatches(seed=1, length=999)
    indices = [7, 3, 3_000_000_000, 3]
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batch = one.get_batch(indices)
    for position, k in enumerate(indices):
        assert torch.equal(batch['inputs'][position], other[k]['inputs'])
        assert batch['labels'][position] == other[k]['labels']
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    different = PhotoPatches(seed=2).get_batch(range(24))['inputs']
    assert not torch.equal(different, one.get_batch(range(24))['inputs'])


def test_frozen_crop():
    # A change here changes every published number of the embedded dataset: think twice.
    labels, corners = PhotoPatches(seed=0).locate([0, 1, 2, 10**12])
    assert labels.tolist() == [0, 1, 2, 4]
    assert corners.tolist() == [[64, 222], [9, 150], [90, 349], [21, 130]]


def test_every_photo_as_often_and_every_place_as_likely():
    dataset = PhotoPatches(photos=['brick', 'grass', 'gravel'])
    labels, corners = dataset.locate(range(5, 5 + 3 * 8712))
    assert np.bincount(labels).tolist() == [8712] * 3
    counts = np.unique(corners[labels == 0], axis=0, return_counts=True)[1]
    # 8712 independent draws of 8712 places: each is hit Poisson(1) times, so 1 - 1/e of the places are hit at all.
    assert abs(len(counts) / 8712 - (1 - np.exp(-1))) < 0.015
    assert counts.max() < 10


def test_disjoint_index_sets_are_independent_draws():
    dataset = PhotoPatches(photos=['brick'])
    _, corners = dataset.locate(range(20_000))
    even, odd = corners[0::2].astype(float), corners[1::2].astype(float)
    for axis in range(2):
        assert abs(np.corrcoef(even[:, axis], odd[:, axis])[0, 1]) < 0.03  # three standard errors
        assert abs(np.corrcoef(corners[:-12, axis], corners[12:, axis])[0, 1]) < 0.022


def test_grey_photos_have_three_equal_channels():
    sample = PhotoPatches(photos=['grass'])[0]['inputs']
    assert torch.equal(sample[0], sample[1]) and torch.equal(sample[0], sample[2])


def test_scale_shrinks_by_a_factor_and_none_never_enlarges():
    assert PhotoPatches(photos=['brick'], scale=2.0)._photos[0].shape == (256, 256, 3)
    assert PhotoPatches(photos=['rocket'], scale=1.0)._photos[0].shape == (427, 640, 3)
    assert PhotoPatches(64, photos=['chelsea'])._photos[0].shape == (300, 451, 3)


@pytest.mark.parametrize('workers', [0, 2])
def test_loader_gives_the_same_data_for_any_number_of_workers(workers):
    dataset = PhotoPatches(length=20)
    batches = list(DataLoader(dataset, batch_size=8, num_workers=workers))
    assert [len(b['labels']) for b in batches] == [8, 8, 4]
    expected = default_collate([dataset[k] for k in range(20)])
    assert torch.equal(torch.cat([b['inputs'] for b in batches]), expected['inputs'])
    labels = torch.cat([b['labels'] for b in batches])
    assert torch.equal(labels, expected['labels']) and labels.dtype == torch.int64


def test_describes_itself_and_ends():
    dataset = PhotoPatches(length=30)
    assert dataset.classes == list(DEFAULT_PHOTOS) and dataset.num_classes == 12 and len(dataset) == 30
    assert dataset.metainfo['classes'] == dataset.classes and dataset.epoch_indexing
    assert len(list(dataset)) == 30


@pytest.mark.parametrize('arguments, message', [
    (dict(image_size=0), 'image_size must be'),
    (dict(image_size=32.0), 'image_size must be'),
    (dict(image_size=240, photos=['chelsea']), 'crops up to 225'),
    (dict(split='test'), "'train' or 'val'"),
    (dict(length=0), 'length'),
    (dict(scale=0), 'scale'),
    (dict(photos=[]), 'at least one'),
    (dict(photos='brick'), 'must be a list'),
    (dict(photos=['brik']), "Did you mean 'brick'"),
    (dict(photos=['brick', 'brick']), 'named once'),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PhotoPatches(**arguments)


def test_negative_index():
    with pytest.raises(IndexError, match='at least 0'):
        PhotoPatches()[-1]

"""Images that are made once: whatever was interrupted, changed or asked for before, they are those of the seed."""

import numpy as np
import pytest
import torch

from slimdiff.datasets import ImageFolder
from studies.image_sets import content_hash, generated_images, real_halves
from tests.datasets.pictures import encoded


class Numbers(torch.nn.Module):
    """'Generates' image i full of the grey level i + seed; notes what it was asked for."""

    num_steps = 4

    def __init__(self, fail_after=None):
        super().__init__()
        self.asked, self.fail_after = [], fail_after

    def sample(self, indices, seed=0, on_step=None, num_steps=None):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += list(indices)
        for _ in range(num_steps or self.num_steps):
            on_step()
        level = (torch.tensor(list(indices)) + seed) / 127.5 - 1
        return level.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def levels(images):
    assert images.dtype == torch.uint8 and images.shape[1:] == (1, 2, 2)
    return images[:, 0, 0, 0].tolist()


def test_made_once_and_added_to(tmp_path):
    file, first = tmp_path / 'new' / 'a.npz', Numbers()
    assert levels(generated_images(file, dict(a=1), lambda: first, 5, batch_size=2)) == list(range(5))
    assert first.asked == list(range(5))

    def never():
        raise AssertionError('nothing is missing')

    assert levels(generated_images(file, dict(a=1), never, 5)) == list(range(5))
    assert levels(generated_images(file, dict(a=1), never, 3)) == list(range(3))
    more = Numbers()
    assert levels(generated_images(file, dict(a=1), lambda: more, 8)) == list(range(8))
    assert more.asked == [5, 6, 7]


def test_an_interrupt_keeps_what_is_done(tmp_path):
    file, model = tmp_path / 'a.npz', Numbers(fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        generated_images(file, {}, lambda: model, 10, batch_size=2)
    with np.load(file) as data:
        assert len(data['images']) == 4
    model = Numbers()
    assert levels(generated_images(file, {}, lambda: model, 10)) == list(range(10)) and model.asked[0] == 4


@pytest.mark.parametrize('change', [dict(settings=dict(a=2)), dict(seed=7), dict(sampling=dict(num_steps=2))])
def test_other_settings_make_other_images(tmp_path, change):
    file, usual = tmp_path / 'a.npz', dict(settings=dict(a=1), build=Numbers, num_images=3)
    generated_images(file, **usual)
    again = Numbers()
    images = generated_images(file, **{**usual, 'build': lambda: again, **change})
    assert again.asked == [0, 1, 2] and levels(images) == [i + change.get('seed', 0) for i in range(3)]


def test_hash_is_of_the_content(tmp_path):
    (tmp_path / 'x').write_bytes(b'abc')
    import hashlib
    assert content_hash(tmp_path / 'x') == hashlib.sha256(b'abc').hexdigest()[:16]
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder/x').write_bytes(b'abc')
    before = content_hash(tmp_path / 'folder')
    (tmp_path / 'folder/x').rename(tmp_path / 'folder/y')
    assert content_hash(tmp_path / 'folder') != before


class Data(list):
    """A data set of so many images without further crops."""

    def __init__(self, length, **more):
        super().__init__(dict(inputs=torch.full((1, 2, 2), float(i)), **more) for i in range(length))


def test_halves_share_no_image():
    (a, labels), (b, _) = real_halves(Data(16, labels=3), 4)
    assert a[:, 0, 0, 0].tolist() == [0, 4, 8, 12] and b[:, 0, 0, 0].tolist() == [2, 6, 10, 14]
    assert labels.tolist() == [3] * 4
    (a, labels), (b, _) = real_halves(Data(7), 100)
    assert a[:, 0, 0, 0].tolist() == [0, 2, 4] and b[:, 0, 0, 0].tolist() == [1, 3, 5] and labels is None
    with pytest.raises(ValueError, match='has 3 images'):
        real_halves(Data(3), 100)


def test_halves_of_files_share_no_image_and_have_all_classes(tmp_path):
    for label in range(2):
        (tmp_path / str(label)).mkdir()
        for i in range(4):
            (tmp_path / str(label) / f'{i}.png').write_bytes(encoded(4 * label + i))
    data = ImageFolder(str(tmp_path), image_size=8, class_from_folder=True)
    for count in (4, 8):
        (a, labels), (b, others) = real_halves(data, count)
        assert labels.tolist() == others.tolist() == [0, 0, 1, 1]
        assert not (a[:, None] == b[None]).flatten(2).all(2).any()


def test_halves_of_data_in_random_order_are_the_first_and_the_next():
    data = Data(10)
    data.random_order = True
    (a, _), (b, _) = real_halves(data, 4)
    assert a[:, 0, 0, 0].tolist() == [0, 1, 2, 3] and b[:, 0, 0, 0].tolist() == [4, 5, 6, 7]

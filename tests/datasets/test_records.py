import time

import numpy as np
import pytest

from slimdiff.datasets import RecordDataset


class Numbered(RecordDataset):
    """Images whose grey is the number of the record."""

    gives = 'array'

    def __init__(self, length, **arguments):
        super().__init__('nowhere', 2, **arguments)
        self.set_length(length)

    def name_of(self, item):
        return f'record {item}'

    def load(self, item, k):
        if item in (2, 3):
            raise ValueError('broken')
        return dict(img=np.full((2, 2, 3), item % 256, np.uint8), gt_label=k)


def test_a_subclass_of_a_few_lines():
    dataset = Numbered(5, on_error='skip')
    assert [round((float(sample['inputs'][0, 0, 0]) + 1) * 127.5) for sample in dataset] == [0, 1, 4, 4, 4]
    assert dataset[7]['labels'] == 7  # load() is given the index asked for, epochs included
    assert dataset.skipped_files == ['record 2', 'record 3'] and len(dataset) == 5
    assert dataset.metainfo == dict(dataset='Numbered', classes=[], image_size=2, data_root='nowhere')
    with pytest.raises(ValueError, match=r"Cannot read image 'record 2' \(ValueError: broken\)"):
        Numbered(5)[2]


def test_the_time_of_a_sample_does_not_grow_with_their_number():
    """A million records as fast as five; a list of the order in which to try them took 30 ms."""

    def seconds(dataset):
        start = time.perf_counter()
        for k in range(20):
            dataset[10 + k]
        return time.perf_counter() - start

    small, large = Numbered(50), Numbered(5_000_000)
    seconds(small), seconds(large)
    assert min(seconds(large) for _ in range(5)) < 5 * min(seconds(small) for _ in range(5))


def test_records_that_the_index_shows_to_be_broken():
    dataset = Numbered(5, on_error='skip')
    dataset.leave_out(['a', 'b', 'c', 'd'], 'bad ones', 'Mend them')
    dataset.leave_out([], 'good ones', 'Nothing')
    dataset.leave_out(['e'], 'others', 'Mend them')
    dataset[2]
    assert dataset.skipped == 7 and dataset.skipped_files == ['a', 'b', 'c', 'd', 'e', 'record 2', 'record 3']
    with pytest.raises(ValueError, match=r"4 bad ones in 'nowhere': a, b, c, \.\.\.\. Mend them, or set on_error='sk"):
        Numbered(5).leave_out(['a', 'b', 'c', 'd'], 'bad ones', 'Mend them')

"""Objects as plain data and back."""

import io

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from slimdiff.checkpoint.plain_data import decode, encode, encode_or_drop


def through_a_file(value):
    file = io.BytesIO()
    torch.save(encode(value), file)
    file.seek(0)
    return decode(torch.load(file, weights_only=True))


def test_history_buffer_survives_weights_only():
    buffer = HistoryBuffer([1.0, 2.5, 4.0], [1, 2, 3], max_length=50)
    back = through_a_file({'a': [buffer]})['a'][0]
    assert np.array_equal(back.data[0], [1.0, 2.5, 4.0]) and np.array_equal(back.data[1], [1, 2, 3])
    assert back.max_length == 50 and back.mean(2) == (2.5 + 4.0) / 5  # values over counts of the last two


def test_numpy_and_containers():
    value = {'x': np.float64(0.1), 'n': np.int64(3), 1: (1, 'two', None), 'a': np.arange(3), 't': torch.ones(2)}
    back = through_a_file(value)
    assert back['x'] == 0.1 and type(back['x']) is float and type(back['n']) is int
    assert back[1] == (1, 'two', None) and back['a'].tolist() == [0, 1, 2] and back['t'].sum() == 2


def test_objects_are_refused_with_their_place():
    with pytest.raises(TypeError, match=r'checkpoint\.log\[1\].*object of type object'):
        encode({'log': [1, object()]})
    assert encode_or_drop({'a': 1, 'b': object()}) == ({'a': 1}, ['b'])

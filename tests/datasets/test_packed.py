import os
import pickle

import pytest

from slimdiff.datasets.packed import PackedStrings

WORDS = ['b/1.png', '', 'äöü/😀.jpg', os.fsdecode(b'not utf-8 \xff.png'), 'b/1.png']


def test_it_is_the_sequence_of_its_strings():
    packed = PackedStrings(iter(WORDS))
    assert len(packed) == 5 and list(packed) == WORDS and packed[-1] == 'b/1.png' and packed[1:4:2] == ['', WORDS[3]]
    assert packed == WORDS and packed == tuple(WORDS) and packed == PackedStrings(WORDS)
    assert packed != WORDS[:-1] and packed != WORDS[::-1] and 'b/1.png' in packed and packed.index('') == 1
    assert pickle.loads(pickle.dumps(packed)) == WORDS
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            packed[wrong]
    assert len(PackedStrings()) == 0 and PackedStrings() == []


def test_it_holds_the_letters_and_an_end_for_each():
    assert PackedStrings(['x' * 10] * 1000).nbytes == 1000 * 10 + 1001 * 8

import os
import pickle

import numpy as np
import pytest

from slimdiff.datasets.file_reader import FileReader
from slimdiff.datasets.index_cache import Index, cached_index, find_index, stamp_of

NUMBERS = np.arange(12, dtype='<u8')


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (tmp_path / 'data').mkdir()
    path = tmp_path / 'data/a[1].tar'  # a name with characters that mean something to glob
    path.write_bytes(b'content')
    return path


def test_built_once_and_again_for_another_stamp(source):
    calls = []

    def build():
        calls.append(1)
        return NUMBERS

    stamp = stamp_of([source])
    for _ in range(2):
        assert np.array_equal(cached_index(source, 'kind', stamp, build).array, NUMBERS)
    assert len(calls) == 1 and find_index(source, 'other', stamp) is None
    old, = (source.parent / '.slimdiff').iterdir()
    os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    changed = stamp_of([source])
    assert changed != stamp and stamp_of([source], 'word') != changed
    cached_index(source, 'kind', changed, build)
    assert len(calls) == 2 and not old.exists() and len(list(old.parent.iterdir())) == 1


def test_empty_arrays_and_a_file_that_is_no_array(source):
    empty = np.zeros(0, [('a', '<u8'), ('b', '<u4')])
    assert cached_index(source, 'kind', 's', lambda: empty).array.dtype == empty.dtype
    file, = (source.parent / '.slimdiff').iterdir()
    for content in (b'', b'junk', file.read_bytes()[:20]):
        file.write_bytes(content)
        assert find_index(source, 'kind', 's') is None


def test_pickled_objects_are_never_loaded(source):
    file = source.parent / '.slimdiff/a[1].tar.kind-s.npy'
    file.parent.mkdir()
    np.save(file, np.array([dict(a=1)], dtype=object), allow_pickle=True)
    assert find_index(source, 'kind', 's') is None


def test_a_mapped_index_is_pickled_by_name(source):
    index = cached_index(source, 'kind', 's', lambda: np.zeros(100_000))
    sent = pickle.dumps(index)
    assert isinstance(index.array, np.memmap) and len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).array, index.array)
    assert np.array_equal(pickle.loads(pickle.dumps(Index(NUMBERS))).array, NUMBERS)


def test_parts_of_files(tmp_path):
    paths = [tmp_path / name for name in 'abc']
    for i, path in enumerate(paths):
        path.write_bytes(bytes(range(10 * i, 10 * i + 10)))
    reader = FileReader(paths, limit=2)
    for number in (0, 1, 0, 2, 1):
        assert reader.read(number, 3, 4) == bytes(range(10 * number + 3, 10 * number + 7))
    assert list(reader._open) == [2, 1]  # the two last read
    with pytest.raises(ValueError, match='ends 3 bytes too early'):
        reader.read(0, 8, 5)
    copy = pickle.loads(pickle.dumps(reader))
    assert not copy._open and copy.read(2, 0, 1) == b'\x14'


def test_a_forked_child_and_its_parent_do_not_move_each_others_position(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(bytes(range(256)) * 100)
    reader = FileReader([path])
    reader.read(0, 0, 1)
    child = os.fork()
    right = all(reader.read(0, offset, 3) == bytes((offset + i) % 256 for i in range(3)) for offset in range(5000))
    if child == 0:
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0 and right

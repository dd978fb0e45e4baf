"""A store gives back what was put into it; whatever is damaged is a miss, and is made again."""

import sqlite3
import threading

import pytest
import torch

from slimdiff.checkpoint.tensor_store import TensorStore


@pytest.fixture
def store(tmp_path):
    made = TensorStore(tmp_path / 'x.sqlite')
    made.put(b'k', {'a': torch.arange(6.).view(2, 3), 'b': torch.tensor(True)})
    return made


def test_round_trip(store):
    found = store.get(b'k', ['a', 'b'])
    assert torch.equal(found['a'], torch.arange(6.).view(2, 3)) and found['b'].dtype == torch.bool
    assert store.get(b'k', ['a', 'c']) is None and store.get(b'l', ['a']) is None


@pytest.mark.parametrize('damage', [
    "dtype = 'float23'", "dtype = 'load'", "dtype = 'float64'", 'dtype = NULL', 'dtype = 7', "shape = '[7]'",
    "shape = '[2,'", "shape = 'x'", 'shape = NULL', "value = x'00'", 'value = NULL', 'value = 5'])
def test_a_damaged_entry_is_a_miss(store, damage):
    store.database.execute(f"UPDATE tensors SET {damage} WHERE name = 'a'")
    assert store.get(b'k', ['a']) is None and store.get(b'k', ['b']) is not None
    store.put(b'k', {'a': torch.ones(2)})
    assert torch.equal(store.get(b'k', ['a'])['a'], torch.ones(2))


def test_a_damaged_file(store, tmp_path):
    """Pages that are overwritten while it is open are misses; a file that is no database is refused, by name."""
    for i in range(200):
        store.put(b'%d' % i, {'a': torch.randn(500)})
    store.database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    store.database.close()
    size = (tmp_path / 'x.sqlite').stat().st_size
    with open(tmp_path / 'x.sqlite', 'r+b') as file:
        file.seek(8192)
        file.write(b'\xff' * (size - 8192))
    again = TensorStore(tmp_path / 'x.sqlite')
    assert all(again.get(b'%d' % i, ['a']) is None for i in range(200))
    (tmp_path / 'y.sqlite').write_bytes(b'no database at all' * 100)
    with pytest.raises(ValueError, match='not a database'):
        TensorStore(tmp_path / 'y.sqlite')
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / 'y.sqlite').execute('SELECT * FROM tensors')


def test_too_large_a_tensor_is_not_kept(store):
    class Small:
        def executemany(self, *_):
            raise OverflowError('BLOB longer than INT_MAX bytes')

    store.database = Small()
    store.put(b'l', {'a': torch.ones(1)})
    assert not store.writes


def test_a_file_that_another_process_is_just_making(tmp_path):
    """SQLite refuses the switch to WAL at once, whatever its timeout, while somebody is about to write."""
    other = sqlite3.connect(tmp_path / 'x.sqlite', isolation_level=None, check_same_thread=False)
    other.execute('CREATE TABLE t (a)')
    other.execute('BEGIN IMMEDIATE')
    other.execute('INSERT INTO t VALUES (1)')
    threading.Timer(.3, lambda: other.execute('COMMIT')).start()
    store = TensorStore(tmp_path / 'x.sqlite')
    store.put(b'k', {'a': torch.ones(1)})
    assert store.get(b'k', ['a'])['a'] == 1

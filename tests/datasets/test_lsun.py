import hashlib
import io
import os
import pickle
import sys

import lmdb
import pytest
import torch
from pictures import assert_is, batches, encoded
from PIL import Image

from slimdiff.datasets import LSUN, index_cache
from slimdiff.datasets import lsun as module

SIZE = 16


def write(folder, numbers, format='WEBP', **pictures):
    """A database as LSUN's: from a key of 40 hexadecimal digits to the bytes of an image file."""
    with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for number in numbers:
            content = encoded(number, format=format, **pictures)
            transaction.put(hashlib.sha1(content).hexdigest().encode(), content)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    yield write(tmp_path / 'church_outdoor_train_lmdb', range(5))
    module._close_all()


def contents(folder):
    """Of a database of five, in the order of the keys."""
    found = [encoded(number, format='WEBP') for number in range(5)]
    return sorted(found, key=lambda content: hashlib.sha1(content).hexdigest())


def test_images_in_the_order_of_the_keys(folder):
    dataset = LSUN(folder, SIZE)
    assert len(dataset) == 5
    for sample, content in zip(dataset, contents(folder)):
        assert Image.open(io.BytesIO(content)).format == 'WEBP'
        assert set(sample) == {'inputs'}
        assert_is(sample, content, SIZE)


def test_older_databases_hold_jpeg(tmp_path):
    folder = write(tmp_path / 'jpeg_lmdb', [7], format='JPEG')
    assert_is(LSUN(folder, SIZE)[0], encoded(7, format='JPEG'), SIZE)


def test_workers_and_a_second_data_set_of_the_same_database(folder):
    first, second = LSUN(folder, SIZE), LSUN(folder, SIZE)
    expected = torch.stack([first[k]['inputs'] for k in range(5)])  # opened before the fork
    assert torch.equal(second[0]['inputs'], expected[0])
    for dataset in (first, second, pickle.loads(pickle.dumps(first))):
        got = torch.cat([batch['inputs'] for batch in batches(dataset, workers=2, batch_size=1)])
        assert torch.equal(got, expected)
    assert torch.equal(first[3]['inputs'], expected[3])  # and again in the main process


def test_nothing_is_written_into_the_database(folder):
    (folder / 'lock.mdb').unlink()
    before = (folder / 'data.mdb').stat().st_mtime_ns
    LSUN(folder, SIZE)[0]
    assert not (folder / 'lock.mdb').exists() and (folder / 'data.mdb').stat().st_mtime_ns == before


def test_keys_are_kept_beside_the_database_until_it_changes(folder, monkeypatch):
    calls = []
    read = module.read_keys
    monkeypatch.setattr(module, 'read_keys', lambda path: calls.append(path) or read(path))
    LSUN(folder, SIZE)
    kept, = (folder / '.slimdiff').iterdir()
    assert LSUN(folder, SIZE)._keys.file == kept and len(calls) == 1
    module._close_all()
    write(folder, [5, 6])
    assert len(LSUN(folder, SIZE)) == 7 and len(calls) == 2
    now, = (folder / '.slimdiff').iterdir()  # the old one is gone
    assert now != kept
    now.write_bytes(now.read_bytes()[:100])  # one that was cut off is made anew
    assert len(LSUN(folder, SIZE)) == 7 and len(calls) == 3


def test_keys_go_to_the_users_cache_where_the_folder_is_read_only(folder, tmp_path, monkeypatch):
    write_file = index_cache.atomic_write

    def refuse_beside(file, write):  # permissions would not stop a test that runs as root
        if '.slimdiff' in file.parts:
            raise PermissionError(13, 'Permission denied', str(file))
        write_file(file, write)

    monkeypatch.setattr(index_cache, 'atomic_write', refuse_beside)
    keys = LSUN(folder, SIZE)._keys
    assert tmp_path / 'cache' in keys.file.parents and LSUN(folder, SIZE)._keys.file == keys.file
    keys.file.unlink()
    monkeypatch.setattr(index_cache, 'atomic_write', lambda file, write: os.stat('/proc/nothing'))
    assert LSUN(folder, SIZE)._keys.file is None and len(LSUN(folder, SIZE)) == 5  # in memory


def test_missing_and_corrupt_databases(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no lmdb database '.*bedroom.*data.mdb'.*datasets.md#lsun$"):
        LSUN(tmp_path / 'bedroom_train_lmdb')
    whole = (folder / 'data.mdb').read_bytes()

    def broken(name, content):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'data.mdb').write_bytes(content)
        return tmp_path / name

    # lmdb itself opens this one and dies of SIGBUS when a page beyond the end is read.
    with pytest.raises(ValueError, match=r"data.mdb' is cut off: it has \d+ bytes of at least"):
        LSUN(broken('half', whole[:len(whole) // 2]))
    for name, content in dict(head=whole[:3000], text=b'<html>' * 9000).items():
        with pytest.raises(ValueError, match=f"{name}/data.mdb' cannot be opened as an lmdb database"):
            LSUN(broken(name, content))
    with pytest.raises(ValueError, match=r"data.mdb' is empty \(0 bytes\). Unpack the archive again, or, .*download"):
        LSUN(broken('empty', b''))
    with pytest.raises(ValueError, match=r"data.mdb' is damaged"):
        LSUN(broken('zeros', whole[:8192] + b'\0' * (len(whole) - 8192)))
    with lmdb.open(str(tmp_path / 'none'), map_size=1 << 20):
        pass
    with pytest.raises(ValueError, match='is empty'):
        LSUN(tmp_path / 'none')


def test_a_database_that_is_cut_off_after_its_keys_were_kept(folder):
    LSUN(folder, SIZE)
    module._close_all()
    status = (folder / 'data.mdb').stat()
    os.truncate(folder / 'data.mdb', status.st_size // 2)
    with pytest.raises(ValueError, match='is cut off'):
        LSUN(folder, SIZE)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_broken_image_is_named_or_skipped_and_counted(folder, workers):
    key = hashlib.sha1(contents(folder)[2]).hexdigest()
    with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        transaction.put(key.encode(), contents(folder)[2][:200])
    with pytest.raises(ValueError, match=f"Cannot read image '.*data.mdb, key {key}'"):
        LSUN(folder, SIZE)[2]
    dataset = LSUN(folder, SIZE, on_error='skip')
    inputs = torch.cat([batch['inputs'] for batch in batches(dataset, workers)])
    assert_is(dict(inputs=inputs[2]), contents(folder)[3], SIZE)
    assert dataset.skipped == 1 and key in dataset.skipped_files[0]


def test_without_the_package_the_message_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(ImportError, match=r"LSUN needs the package 'lmdb'.*pip install .*\[datasets\]'"):
        LSUN(folder)

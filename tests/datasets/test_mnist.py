import gzip
import hashlib
import http.server
import threading
from functools import partial

import numpy as np
import pytest
import torch
from idx_files import idx_bytes, write_idx
from pictures import batches

from slimdiff.datasets import MNIST, FashionMNIST
from slimdiff.datasets.idx import read_idx
from slimdiff.datasets.missing import MissingDataError


@pytest.mark.parametrize('packed', [True, False])
def test_images_are_padded_with_black_and_lie_in_minus_one_to_one(tmp_path, packed):
    images = write_idx(tmp_path, packed=packed)
    dataset = FashionMNIST(tmp_path)
    assert len(dataset) == 20 and dataset.num_classes == 10 and dataset.metainfo['classes'][9] == 'Ankle boot'
    batch = dataset.get_batch([3, 0])
    assert batch['inputs'].shape == (2, 1, 32, 32) and batch['labels'].tolist() == [3, 0]
    expected = torch.from_numpy(images[[3, 0]].astype(np.float64))[:, None] / 127.5 - 1
    torch.testing.assert_close(batch['inputs'][:, :, 2:30, 2:30].double(), expected, atol=1e-6, rtol=0)
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert (batch['inputs'][:, 0, border] == -1).all()
    sample = dataset[3]
    assert sample['labels'] == 3 and torch.equal(sample['inputs'], batch['inputs'][0])
    assert torch.equal(FashionMNIST(tmp_path, image_size=28)[3]['inputs'], sample['inputs'][:, 2:30, 2:30])
    halved = FashionMNIST(tmp_path, image_size=16, pool=2)[3]['inputs']
    expected = torch.nn.functional.avg_pool2d(sample['inputs'], 2)
    torch.testing.assert_close(halved, expected, atol=0.51 / 127.5, rtol=0)  # rounded to bytes


def test_the_splits_are_different_files_and_loaders_give_batches(tmp_path):
    write_idx(tmp_path)
    images = write_idx(tmp_path, 10, split='test', seed=1)
    test = MNIST(str(tmp_path), split='test', image_size=28)
    assert len(test) == 10 and test.metainfo['classes'] == list('0123456789')
    pixels = torch.cat([batch['inputs'] for batch in batches(test)])
    assert torch.equal(((pixels[:10, 0] + 1) * 127.5).round().byte(), torch.from_numpy(images)[:len(pixels)])


def test_an_idx_file_of_another_kind_is_refused(tmp_path):
    write_idx(tmp_path, packed=False)
    images, labels = tmp_path / 'train-images-idx3-ubyte', tmp_path / 'train-labels-idx1-ubyte'
    content = images.read_bytes()
    for damaged, message in [
        (content[:-1], r"cut off or damaged: it has 15,695 bytes \(unpacked\) instead of 15,696"),
        (content + b'0', '15,697 bytes'),
        (content[:9], 'it has 9 bytes .* instead of 16'),
        (b'', 'it has 0 bytes'),
        (gzip.compress(content)[:-100], 'cut off or damaged'),
        (gzip.compress(content)[:50] + bytes(100), 'cut off or damaged'),
        (b'<!DOCTYPE html>', 'magic number 0x3c21444f, .* 3 dimensions of bytes starts with 0x00000803'),
        (labels.read_bytes(), 'magic number 0x00000801'),
        (bytes([0, 0, 13, 3]) + content[4:], 'magic number 0x00000d03'),  # of floats
    ]:
        images.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"train-images-idx3-ubyte' .*{message}"):
            FashionMNIST(tmp_path)


@pytest.mark.parametrize('labels, message', [
    (np.zeros(19), r"holds 20 images but '.*labels-idx1-ubyte.gz' 19 labels"),
    (np.full(20, 10), 'the label 10; those of Fashion-MNIST are 0 to 9'),
])
def test_labels_that_do_not_belong_to_the_images(tmp_path, labels, message):
    write_idx(tmp_path)
    (tmp_path / 'train-labels-idx1-ubyte.gz').write_bytes(gzip.compress(idx_bytes(labels)))
    with pytest.raises(ValueError, match=message):
        FashionMNIST(tmp_path)


def test_bad_arguments(tmp_path):
    write_idx(tmp_path)
    with pytest.raises(ValueError, match="'train' or 'test', got 'tset'.*test"):
        FashionMNIST(tmp_path, split='tset')
    with pytest.raises(ValueError, match='at least 28 pixels'):
        FashionMNIST(tmp_path, image_size=16)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No folder of the system, an empty cache."""
    monkeypatch.setattr(FashionMNIST, 'system_folder', tmp_path / 'no-debian')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of IDX files on this machine, and their checksums."""
    folder = tmp_path / 'served'
    folder.mkdir()
    write_idx(folder)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(FashionMNIST, 'url', f'http://127.0.0.1:{server.server_port}/')
        monkeypatch.setattr(FashionMNIST, 'checksums', {
            path.stem: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()})
        yield folder
        server.shutdown()


WAYS = r'apt install dataset-fashion-mnist.*data_root=.*train-images-idx3-ubyte.*pip install pooch.*#fashion-mnist$'


def test_without_files_the_error_has_all_ways_to_get_them(nowhere, tmp_path, monkeypatch):
    monkeypatch.setattr(FashionMNIST, 'url', 'http://127.0.0.1:9/')  # nobody listens
    with pytest.raises(MissingDataError, match='cannot be downloaded .*' + WAYS):
        FashionMNIST()
    with pytest.raises(MissingDataError, match=r"data_root: there is no file '.*images-idx3-ubyte\[.gz\]'.*" + WAYS):
        FashionMNIST(tmp_path)


def test_the_systems_files_are_found(nowhere, tmp_path):
    FashionMNIST.system_folder.mkdir()
    write_idx(FashionMNIST.system_folder, 5)
    assert len(FashionMNIST()) == 5


def test_files_are_downloaded_once_and_compared_with_their_checksums(nowhere, server):
    assert len(FashionMNIST()) == 20
    for path in server.iterdir():
        path.unlink()
    assert len(FashionMNIST()) == 20  # from the cache


def test_a_download_with_another_checksum_is_refused(nowhere, server):
    write_idx(server, seed=1)
    with pytest.raises(MissingDataError, match='hash'):
        FashionMNIST()


def test_read_idx_gives_rows_first(tmp_path):
    (tmp_path / 'x').write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
    assert read_idx(tmp_path / 'x', 2).tolist() == [[1, 2, 3], [4, 5, 6]]

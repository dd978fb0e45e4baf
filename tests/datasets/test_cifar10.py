import pickle

import numpy as np
import pytest
import torch
from pictures import batches

from slimdiff.datasets import CIFAR10

NAMES = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']


@pytest.fixture
def root(tmp_path):
    """The binary version, three images a file: label, then the red, the green and the blue plane."""
    folder = tmp_path / 'cifar-10-batches-bin'
    folder.mkdir()
    (folder / 'batches.meta.txt').write_text('\n'.join(NAMES) + '\n\n')
    rng = np.random.default_rng(0)
    for name in [*(f'data_batch_{i}.bin' for i in range(1, 6)), 'test_batch.bin']:
        records = rng.integers(0, 256, (3, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)
    return folder


def test_pixels_and_labels_are_those_of_the_records(root):
    train, test = CIFAR10(root), CIFAR10(root, split='test')
    assert len(train) == 15 and len(test) == 3 and train.classes == NAMES and train.num_classes == 10
    records = np.concatenate([np.fromfile(root / f'data_batch_{i}.bin', np.uint8).reshape(-1, 3073)
                              for i in range(1, 6)])
    for sample, record in zip(train, records):
        assert sample['labels'] == record[0] and sample['inputs'].dtype == torch.float32
        # red plane first, row by row
        expected = torch.from_numpy(record[1:].astype(np.float64).reshape(3, 32, 32)) / 127.5 - 1
        torch.testing.assert_close(sample['inputs'].double(), expected, atol=1e-6, rtol=0)
    assert test[1]['labels'] == np.fromfile(root / 'test_batch.bin', np.uint8)[3073]


def test_workers(root):
    dataset = CIFAR10(root, pipeline=[dict(type='RandomFlip', prob=0.5), dict(type='PackImage')])
    alone, together = batches(dataset), batches(dataset, workers=2)
    assert all(torch.equal(a['inputs'], b['inputs']) for a, b in zip(alone, together))
    assert any(not torch.equal(dataset[k]['inputs'], dataset[k + 15]['inputs']) for k in range(15))
    sent = pickle.dumps(dataset)  # as to a spawned worker
    assert len(sent) < 5000  # no pixels in memory
    assert torch.equal(pickle.loads(sent)[0]['inputs'], dataset[0]['inputs'])


def test_the_python_version_is_refused(root):
    (root / 'data_batch_1.bin').unlink()
    (root / 'batches.meta').write_bytes(b'\x80\x03')
    with pytest.raises(ValueError, match=r'python version .* pickles.*cifar-10-binary\.tar\.gz.*#cifar-10'):
        CIFAR10(root)


def test_missing_and_cut_off_files(root):
    with pytest.raises(ValueError, match=r"no folder '.*nowhere'.*datasets.md#cifar-10$"):
        CIFAR10(root / 'nowhere')
    with pytest.raises(ValueError, match="one folder deeper. Set data_root='.*cifar-10-batches-bin'"):
        CIFAR10(root.parent)
    with pytest.raises(ValueError, match="'train' or 'test'"):
        CIFAR10(root, split='val')
    (root / 'data_batch_2.bin').write_bytes(b'\0' * 5000)
    with pytest.raises(ValueError, match=r"data_batch_2.bin' is cut off: its 5000 bytes"):
        CIFAR10(root)
    (root / 'data_batch_3.bin').unlink()
    with pytest.raises(ValueError, match=r"no file '.*data_batch_3.bin'"):
        CIFAR10(root)


def test_a_label_that_is_no_class(root):
    file = root / 'data_batch_2.bin'
    content = bytearray(file.read_bytes())
    content[3073] = 10
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_2.bin, record 1' .*its label is 10, labels are 0 to 9"):
        CIFAR10(root)[4]
    dataset = CIFAR10(root, on_error='skip')
    assert torch.equal(dataset[4]['inputs'], dataset[5]['inputs'])
    assert dataset.skipped_files == [f'{file}, record 1']

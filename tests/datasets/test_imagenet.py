import pytest
from pictures import assert_is, encoded

from slimdiff.datasets import ImageNet

SYNSETS = ['n01440764', 'n01443537', 'n02119789']


@pytest.fixture
def root(tmp_path):
    number = 0
    for split in ('train', 'val'):
        for synset in reversed(SYNSETS):
            (tmp_path / split / synset).mkdir(parents=True)
            for i in (7, 10):
                (tmp_path / split / synset / f'{synset}_{i}.JPEG').write_bytes(encoded(number, format='JPEG'))
                number += 1
    return tmp_path


def test_labels_are_the_place_in_the_sorted_synsets(root):
    dataset = ImageNet(root, image_size=16, num_classes=3)
    assert dataset.classes == SYNSETS and [s['labels'] for s in dataset] == [0, 0, 1, 1, 2, 2]
    assert dataset.files[0] == 'n01440764/n01440764_10.JPEG'  # sorted as text
    assert_is(dataset[0], (root / 'train' / dataset.files[0]).read_bytes(), 16)
    assert ImageNet(root, 'val', 16, num_classes=None).data_root == root / 'val'


def test_a_given_list_fixes_the_labels(root, tmp_path):
    order = [SYNSETS[2], 'n09999999', SYNSETS[0], SYNSETS[1]]
    given = ImageNet(root, image_size=16, classes=order, num_classes=4)
    assert [s['labels'] for s in given] == [2, 2, 3, 3, 0, 0] and given.num_classes == 4
    file = tmp_path / 'LOC_synset_mapping.txt'
    file.write_text(''.join(f'{name} some fish, Piscis piscis\n' for name in order))
    read = ImageNet(root, image_size=16, classes=str(file), num_classes=4)
    assert read.classes == order and read.labels.tolist() == given.labels.tolist()


def test_exactly_1000_classes_unless_told_otherwise(root):
    with pytest.raises(ValueError, match=r'3 classes instead of 1000.*0 to 999; 1000 is reserved for the null class'):
        ImageNet(root)
    for i in range(998):
        (root / 'train' / f'n1{i:07d}').mkdir()
    with pytest.raises(ValueError, match='1001 classes instead of 1000'):
        ImageNet(root)
    (root / 'train' / 'n10000997').rmdir()
    full = ImageNet(root, image_size=16)  # folders without an image count as classes, so that labels stay
    assert full.num_classes == 1000 and set(full.labels.tolist()) == {0, 1, 2}


def test_folders_that_are_no_class(root):
    (root / 'train/cats').mkdir()
    with pytest.raises(ValueError, match='Label out of range: 1 folders .* are not classes: cats'):
        ImageNet(root, num_classes=4)
    with pytest.raises(ValueError, match=r'Label out of range: 1 folders .*: n02119789\.'):
        ImageNet(root, 'val', classes=SYNSETS[:2], num_classes=2)
    with pytest.raises(ValueError, match='n01440764 stand there twice'):
        ImageNet(root, 'val', classes=[*SYNSETS, SYNSETS[0]], num_classes=4)


def test_missing_and_unsorted_folders(root, tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder '.*/test'.*datasets.md#imagenet"):
        ImageNet(root, 'test')
    with pytest.raises(ValueError, match=r"classes: there is no list of synsets '.*nothing.txt'"):
        ImageNet(root, classes='nothing.txt')
    (tmp_path / 'words.txt').write_text('tench\n')
    with pytest.raises(ValueError, match="starts with 'tench'"):
        ImageNet(root, classes=str(tmp_path / 'words.txt'))
    (root / 'val/ILSVRC2012_val_00000001.JPEG').write_bytes(encoded(0, format='JPEG'))
    with pytest.raises(ValueError, match='1 images lie directly in .*ILSVRC2012_val_00000001.JPEG.*#imagenet'):
        ImageNet(root, 'val', num_classes=3)


@pytest.mark.parametrize('name', ['loose.png', 'loose.jpeg'])
def test_images_of_any_kind_outside_the_synsets_are_refused(root, name):
    (root / 'train' / name).write_bytes(encoded(0))
    with pytest.raises(ValueError, match=f'1 images lie directly in .*such as {name}'):
        ImageNet(root, image_size=16, num_classes=3)


def test_a_broken_image_is_named(root):
    (root / 'train/n01440764/n01440764_7.JPEG').write_bytes(b'\xff\xd8\xff')
    with pytest.raises(ValueError, match='n01440764_7.JPEG'):
        ImageNet(root, image_size=16, num_classes=3)[1]
    skipping = ImageNet(root, image_size=16, num_classes=3, on_error='skip')
    assert skipping[1]['labels'] == 1 and skipping.skipped_files == ['n01440764/n01440764_7.JPEG']

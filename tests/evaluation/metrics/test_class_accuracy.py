import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from slimdiff.datasets import FashionMNIST, PhotoPatches
from slimdiff.evaluation import ClassAccuracy, evaluate, noise_floor
from slimdiff.evaluation.classifier import SmallClassifier, load_classifier, save_classifier

NAMES = ['dark', 'grey', 'bright']


def images_of(labels):
    """Plain images: the brightness is the class."""
    return torch.linspace(-1, 1, 3)[labels].view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()


class Plain(Dataset):
    """Images of the classes in turn, under names in any order."""

    def __init__(self, classes=NAMES, wrong=0, length=12):
        self.length, self.wrong = length, wrong
        self.metainfo = dict(dataset='Plain', classes=list(classes))
        self.shows = torch.tensor([NAMES.index(name) if name in NAMES else 0 for name in classes])

    def __len__(self):
        return self.length

    def __getitem__(self, k):
        label = k % len(self.shows)
        shown = (label + (k < self.wrong)) % len(self.shows)
        return dict(inputs=images_of(self.shows[[shown]])[0], labels=label)


class Painter(nn.Module):
    """Draws the class that is asked for, but the first ``wrong`` images show the next class."""

    num_steps = 1

    def __init__(self, shows, wrong=0, num_classes=3):
        super().__init__()
        self.shows, self.wrong, self.num_classes = shows, wrong, num_classes

    def sample(self, indices, seed, on_step=None, **sampling):
        labels = torch.tensor([(i + (i < self.wrong)) % 3 for i in indices])
        return images_of(self.shows[labels])


@pytest.fixture
def classifier(tmp_path):
    """A file whose network tells the three brightnesses apart: one channel passes all the way, the rest are zero."""
    network = SmallClassifier(NAMES, 1, 8, widths=(2, 2, 2))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                module.weight[0, 0, 1, 1] = 1
            elif isinstance(module, nn.BatchNorm2d):
                module.bias[0] = 1 if module is network.features[2] else 0  # [-1, 1] -> [0, 2]
        # scores 0, x - 0.5 and 2 x - 2 of the brightness x in {0, 1, 2}: equal at 0.5 and at 1.5
        network.head.weight.zero_()
        network.head.weight[:, 0] = torch.tensor([0., 1, 2])
        network.head.bias.copy_(torch.tensor([0., -.5, -2]))
    path = tmp_path / 'plain.safetensors'
    save_classifier(network.eval(), path, dict(accuracy=1.0))
    return str(path)


def figures(classifier, data, model, **settings):
    return evaluate(model, DataLoader(data, batch_size=5), [dict(type='ClassAccuracy', classifier=classifier)],
                    progress=False, **settings)


def test_the_share_of_right_classes_of_generated_and_of_real_images(classifier):
    data = Plain(wrong=3)
    found = figures(classifier, data, Painter(data.shows, wrong=5), num_images=20, batch_size=8)
    assert found == {'class_accuracy': 0.75, 'class_accuracy/real': 0.75}


def test_classes_are_matched_by_name(classifier):
    data = Plain(['bright', 'dark', 'grey'])
    assert figures(classifier, data, Painter(data.shows), num_images=6)['class_accuracy'] == 1
    # under wrong names every image is wrong
    data.metainfo['classes'] = ['dark', 'grey', 'bright']
    assert figures(classifier, data, Painter(data.shows), num_images=6)['class_accuracy'] == 0


def test_the_floor_is_the_accuracy_on_real_images(classifier):
    floor = noise_floor(DataLoader(Plain(wrong=3), batch_size=5), [ClassAccuracy(classifier)], 6, 6, progress=False)
    # each split parts the three wrong ones among its two sets of six
    assert floor['class_accuracy']['mean'] + floor['class_accuracy/real']['mean'] == pytest.approx(1.5)


def test_classes_that_the_classifier_does_not_know(classifier):
    data = Plain(['dark', 'grey', 'pink'])
    with pytest.raises(ValueError, match='tells dark, grey, bright apart; the data set Plain has classes .*: pink'):
        figures(classifier, data, Painter(data.shows), num_images=6)
    data.metainfo = {}
    with pytest.raises(ValueError, match='does not name its classes'):
        figures(classifier, data, Painter(data.shows), num_images=6)


def test_a_model_without_these_classes(classifier):
    data = Plain()
    with pytest.raises(ValueError, match='needs labels.*num_classes'):
        figures(classifier, data, Painter(data.shows, num_classes=None), num_images=6)
    with pytest.raises(ValueError, match=r'label 3.*names 3 classes'):
        figures(classifier, data, Painter(data.shows, num_classes=4), num_images=6)


def test_images_of_another_size(classifier):
    with pytest.raises(ValueError, match=r'trained on images of 1 x 8 x 8 .*got 3 x 16 x 16'):
        ClassAccuracy(classifier).update(torch.zeros(2, 3, 16, 16), real=True, labels=torch.zeros(2))


def test_files_that_are_no_classifier(tmp_path):
    from safetensors.torch import save_file
    with pytest.raises(ValueError, match="there is no file 'x.safetensors'.*train_classifier"):
        ClassAccuracy('x.safetensors')
    save_file({'a': torch.zeros(2)}, tmp_path / 'a.safetensors')
    (tmp_path / 'b.safetensors').write_bytes(b'hello')
    save_file({'a': torch.zeros(2)}, tmp_path / 'c.safetensors', metadata=dict(slimdiff_classifier=json.dumps(
        dict(config=dict(classes=['x', 'y'])))))
    for name in 'abc':
        with pytest.raises(ValueError, match=f"{name}.safetensors' is not a file of a classifier"):
            ClassAccuracy(str(tmp_path / f'{name}.safetensors'))


def knows(name, data):
    """Whether a shipped classifier is as good as its file says: a thousand test images, three standard errors."""
    network, info = load_classifier(f'configs/classifiers/{name}.safetensors')
    batch = data.get_batch(range(1000))
    right = (network(batch['inputs']).argmax(1) == batch['labels']).float().mean().item()
    assert info['accuracy'] >= 0.91
    return network.classes == list(data.classes) and right == pytest.approx(info['accuracy'], abs=0.03)


@pytest.mark.skipif(not FashionMNIST.system_folder.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_shipped_classifier_of_fashion_mnist_knows_its_test_images():
    assert knows('fashion_mnist', FashionMNIST(split='test'))


def test_the_shipped_classifier_of_photo_patches_knows_its_validation_crops():
    assert knows('photo_patches', PhotoPatches(32, split='val'))

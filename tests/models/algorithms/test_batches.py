"""What of a batch is dropped, and which batches are refused, without a model around them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from slimdiff.models import DiffusionModel
from slimdiff.models.algorithms import batches
from slimdiff.models.algorithms.draws import drop_conditions


def network(**config):
    unet = nn.Identity()
    unet.config = SimpleNamespace(**{**dict(sample_size=8, in_channels=4, context_channels=None), **config})
    return unet


def test_dropped_conditions_are_the_null_class_and_the_empty_caption():
    drop = torch.tensor([True, False, True])
    labels, caption = drop_conditions(drop, torch.tensor([0, 1, 2]), ['a', 'b', 'c'], 5)
    assert labels.tolist() == [5, 1, 5] and caption == ['', 'b', '']
    assert drop_conditions(drop, torch.tensor([0, 1, 2]), None, None) == (None, None)


@pytest.mark.parametrize('null, fits', [(False, False), (True, True)])
def test_the_null_class_is_a_label_only_where_it_is_asked_for(null, fits):
    labels = torch.tensor([0, 3])
    if fits:
        batches.check_labels(labels, 3, null)
    else:
        with pytest.raises(ValueError, match=r'Labels must lie in 0\.\.2 \(num_classes=3\), got 0\.\.3'):
            batches.check_labels(labels, 3, null)


def test_labels_are_looked_at_before_they_go_to_a_device():
    """The null class has an embedding too, so on a GPU nothing else would notice it."""
    preprocessor = batches.CheckedBatches(3)
    preprocessor._device = torch.device('meta')  # stands for a GPU: it has no values to look at
    data = dict(inputs=torch.zeros(2, 1), labels=torch.tensor([0, 2]))
    assert preprocessor(data, True)['labels'].device.type == 'meta'
    with pytest.raises(ValueError, match=r'0\.\.2 \(num_classes=3\), got 0\.\.3\. 3 is the null class'):
        preprocessor({**data, 'labels': torch.tensor([0, 3])}, True)
    assert preprocessor(dict(inputs=torch.zeros(2, 1)))['inputs'].device.type == 'meta'
    model = DiffusionModel(unet=dict(type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8)]),
                           num_classes=3)
    assert isinstance(model.data_preprocessor, batches.CheckedBatches) and model.data_preprocessor.num_classes == 3


def test_labels():
    batches.check_labels(None, None)
    batches.check_labels(torch.tensor([99]), None)  # an unconditional model looks at none
    with pytest.raises(ValueError, match=r'num_classes=3, but the batch has no labels'):
        batches.check_labels(None, 3)
    with pytest.raises(ValueError, match=r'got -1\.\.2'):
        batches.check_labels(torch.tensor([-1, 2]), 3)


@pytest.mark.parametrize('batch, num_classes, text, message', [
    (dict(inputs=[0], labels=[2]), 3, False, None),
    (dict(latents=[0], caption=['a']), None, True, None),
    (dict(inputs=[0], context=[0]), None, True, None),
    (dict(labels=[0]), 3, False, 'this one has neither'),
    (dict(inputs=[0]), 3, False, 'the batch has no labels'),
    (dict(inputs=[0], labels=[3]), 3, False, r'must lie in 0\.\.2 .*got 3'),
    (dict(inputs=[0], labels=[0]), None, True, "has a conditioner, but the batch has no 'caption'"),
])
def test_keys_of_a_batch(batch, num_classes, text, message):
    if message is None:
        batches.check_keys(batch, num_classes, text)
    else:
        with pytest.raises(ValueError, match=message):
            batches.check_keys(batch, num_classes, text)


@pytest.mark.parametrize('width, context, message', [
    (None, None, None), (6, (2, 5, 6), None),
    (6, None, "context_channels=6, the batch's context is none"),
    (6, (2, 5, 4), r"context_channels=6, the batch's context is \(2, 5, 4\)"),
    (None, (2, 5, 4), r"context_channels=None, the batch's context is \(2, 5, 4\)"),
])
def test_context_comes_where_there_is_cross_attention(width, context, message):
    context, unet = None if context is None else torch.zeros(context), network(context_channels=width)
    if message is None:
        batches.check_context(context, unet)
    else:
        with pytest.raises(ValueError, match=message):
            batches.check_context(context, unet)


def test_a_batch_has_either_images_or_latents():
    images = torch.zeros(1)
    batches.check_images(images, None)
    batches.check_images(None, images)
    for both, pair in (('both', (images, images)), ('neither', (None, None))):
        with pytest.raises(ValueError, match=f'this one has {both}'):
            batches.check_images(*pair)


def test_latents_of_another_shape_name_the_size_to_encode_at():
    stage = SimpleNamespace(downsampling=4)
    batches.check_latent_shape((4, 8, 8), network(), stage)
    with pytest.raises(ValueError, match=r'the data has 3 x 8 x 8 .* UNet takes 4 x 8 x 8 .* at 32 pixels'):
        batches.check_latent_shape(torch.Size([3, 8, 8]), network(), stage)


def test_images_need_the_first_stage():
    calls = []
    batches.check_data({}, network(), SimpleNamespace(require=lambda: calls.append('required')))
    assert calls == ['required']


def test_images_of_another_shape_are_refused_before_training():
    """Of other channels or another size than the model samples."""
    for shape in ((3, 8, 8), (1, 16, 16), (1, 8, 16)):
        message = rf'The images are {" x ".join(map(str, shape))} .*, but the network takes 1 x 8 x 8'
        with pytest.raises(ValueError, match=message):
            batches.check_image_shape(torch.zeros(2, *shape), (1, 8, 8))
    batches.check_image_shape(torch.zeros(2, 1, 8, 8), (1, 8, 8))
    batches.check_image_shape(None, (1, 8, 8))

"""A step of a denoising against calling the networks by hand."""

import pytest
import torch

from slimdiff import UNet
from slimdiff.models.backbones.adapt import given
from slimdiff.models.backbones.steps import take_step
from slimdiff.sampling.actions import Reuse, Run


@pytest.fixture(scope='module')
def networks():
    torch.manual_seed(0)
    made = {width: UNet(sample_size=8, norm_groups=4, num_classes=3, stages=[
        dict(channels=round(8 * width), blocks=1), dict(channels=round(8 * width), blocks=1)]) for width in (.5, 1.)}
    for network in made.values():
        torch.nn.init.normal_(network.conv_out.weight, std=.1)
    return {width: network.eval().requires_grad_(False) for width, network in made.items()}


@pytest.fixture
def method(networks):
    return lambda run, name: getattr(networks[run.width], name)


@pytest.fixture
def inputs():
    return torch.randn(4, 2, 3, 8, 8), torch.tensor([1, 3])


@pytest.mark.parametrize('keeps_features', [False, True])
def test_a_run_leaves_its_width_and_prediction(networks, method, inputs, keeps_features):
    (x, y, *_), labels = inputs
    conditions = given(labels, None)
    assert list(conditions) == ['class_labels']
    state = take_step(method, Run(1.), None, x, 900, conditions, keeps_features)
    torch.testing.assert_close(state.prediction, networks[1.](x, 900, labels).sample)
    state = take_step(method, Run(.5), state, y, 800, conditions, keeps_features)
    torch.testing.assert_close(state.prediction, networks[.5](y, 800, labels).sample)
    assert state.run == Run(.5) and (state.features is not None) == keeps_features


def test_reuse_is_of_the_width_last_run(networks, method, inputs):
    """The features stay those of the last run, however many steps reuse them."""
    (x, y, z, _), labels = inputs
    conditions = given(labels, None)
    state = take_step(method, Run(.5), None, x, 900, conditions, True)
    _, features = networks[.5].with_features(x, 900, labels)
    for sample, t in ((y, 800), (z, 700)):
        before = state.prediction
        assert take_step(method, Reuse('prediction'), state, sample, t, conditions, True).prediction is before
        state = take_step(method, Reuse('features'), state, sample, t, conditions, True)
        torch.testing.assert_close(state.prediction, networks[.5].shallow(sample, t, labels, None, features).sample)
        assert (state.prediction - networks[.5](sample, t, labels).sample).abs().max() > 1e-5


@pytest.mark.parametrize('what', ['prediction', 'features'])
def test_nothing_to_reuse(method, inputs, what):
    with pytest.raises(ValueError, match=f"is to 'reuse {what}', but there is nothing to reuse"):
        take_step(method, Reuse(what), None, inputs[0][0], 900, {})

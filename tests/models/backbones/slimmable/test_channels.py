"""Parts of channel axes: hand computations."""

import pytest
import torch

from slimdiff.models.backbones.slimmable.slicing import Slicer
from slimdiff.models.layers.channels import Channels, affine, prefixed, whole


def test_a_plain_axis_keeps_its_first_channels():
    assert Channels.of(8).ranges(0.25) == [(0, 2)]


def test_every_part_keeps_its_first_channels():
    main_and_skip = Channels.of(8) + Channels.of(4)
    assert main_and_skip.ranges(0.5) == [(0, 4), (8, 10)]
    assert Channels.of(4).times(3).ranges(0.5) == [(0, 2), (4, 6), (8, 10)]
    assert Channels.of(16, 4).ranges(0.5) == [(0, 2), (4, 6), (8, 10), (12, 14)]
    assert Channels.of(4).each(3).ranges(0.5) == [(0, 6)]
    assert Channels.of(8, 2).each(2).ranges(0.5) == [(0, 4), (8, 12)]


def test_the_full_width_is_one_range():
    assert (Channels.of(8, 4) + Channels.of(6)).ranges(1.0) == [(0, 14)]


@pytest.mark.parametrize('channels, width', [(Channels.of(6), 0.25), (Channels.of(8, 4), 0.25), (Channels.of(2), 0.1)])
def test_a_part_without_a_whole_share_is_refused(channels, width):
    with pytest.raises(ValueError, match='no whole share'):
        channels.kept(width)


def test_parts_must_divide():
    with pytest.raises(ValueError, match='10 channels do not divide into 4'):
        Channels.of(10, 4)


def test_whole():
    assert (whole(2.9999999999), whole(0.5), whole(0.0), whole(3)) == (3, None, None, 3)


def test_names():
    assert prefixed('a', affine('b', Channels.of(2), None)) == {
        'a.b.weight': (Channels.of(2), None), 'a.b.bias': (Channels.of(2), )}


def test_a_slice_and_its_gradient_are_those_of_indexing():
    axes = (Channels.of(8, 2), Channels.of(4) + Channels.of(2), None)
    rows, columns = [0, 1, 4, 5], [0, 1, 4]
    weight = torch.randn(8, 6, 3, dtype=torch.float64, requires_grad=True)
    cut = Slicer(weight.shape, axes, 0.5)(weight)
    expected = weight[rows][:, columns]
    torch.testing.assert_close(cut, expected, rtol=0, atol=0)
    factor = torch.randn(4, 3, 3, dtype=torch.float64)
    gradient, = torch.autograd.grad((cut * factor).sum(), weight)
    other, = torch.autograd.grad((expected * factor).sum(), weight)
    torch.testing.assert_close(gradient, other, rtol=0, atol=0)
    assert torch.autograd.gradcheck(Slicer(weight.shape, axes, 0.5), weight)


def test_the_full_width_is_the_weight_itself():
    weight = torch.randn(4, 4)
    assert Slicer(weight.shape, (Channels.of(4), Channels.of(4)), 1.0)(weight) is weight


def test_channels_last_weights_stay_so():
    weight = torch.randn(8, 8, 3, 3).to(memory_format=torch.channels_last)
    cut = Slicer(weight.shape, (Channels.of(8), Channels.of(4) + Channels.of(4), None, None), 0.5)(weight)
    assert cut.is_contiguous(memory_format=torch.channels_last)

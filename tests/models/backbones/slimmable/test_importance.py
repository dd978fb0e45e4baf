"""Ordering channels changes no output, and puts the strong ones first."""

import pytest
import torch
from slim_networks import NETWORKS, inputs_of, shaken

from slimdiff.models.backbones.slimmable.importance import order_channels
from slimdiff.models.backbones.unet import UNet


@pytest.mark.parametrize('widths', [(0.25, 1.0), (0.5, 1.0)])
@pytest.mark.parametrize('name', ['table', 'wavelet', 'ldm, text', 'classes, film', 'thin heads'])
def test_the_function_stays(name, widths):
    torch.manual_seed(0)
    network = shaken(UNet(sample_size=8, norm_groups=4, **NETWORKS[name])).double().eval()
    args, kwargs = inputs_of(network, dtype=torch.float64)
    with torch.no_grad():
        before = network(*args, **kwargs).sample
        assert order_channels(network, widths) > 0
        torch.testing.assert_close(network(*args, **kwargs).sample, before, rtol=1e-9, atol=1e-10)
        assert order_channels(network, widths) == 0  # it is in order now


def test_the_strongest_group_comes_first():
    torch.manual_seed(0)
    network = UNet(sample_size=8, norm_groups=4, **NETWORKS['table'])
    block = network.down1.blocks[0]  # 16 channels in 4 groups
    with torch.no_grad():
        for parameter in (block.conv1.weight, block.conv2.weight):
            parameter.fill_(0.1)
        block.conv1.weight[8:12] = 1.0
        block.conv1.bias.copy_(torch.arange(16.0))
    order_channels(network, (0.25, 1.0))
    assert block.conv1.bias.tolist() == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15]
    assert block.conv1.weight[:4].min() == 1.0

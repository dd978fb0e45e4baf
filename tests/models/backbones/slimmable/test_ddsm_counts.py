"""MACs of the CIFAR-10 network at every width, against DDSM's way of counting, layer by layer."""

from pathlib import Path

import pytest
import torch

from slimdiff.configuration import load_config
from slimdiff.evaluation.cost import count_cost
from slimdiff.registry import MODELS

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope='module')
def network():
    cfg = load_config(str(ROOT / 'configs/ddsm/cifar10.py'))
    return MODELS.build(dict(cfg.model.unet))


def published_macs(width):
    """Convolutions and linear layers of DDPM's CIFAR-10 UNet, 128 x (1, 2, 2, 2), written down from the paper."""
    base, total = round(128 * width), 0

    def conv(cin, cout, size, kernel=3):
        nonlocal total
        total += cin * cout * kernel**2 * size**2

    def block(cin, cout, size, attention=False):
        conv(cin, cout, size)
        conv(cout, cout, size)
        conv(4 * base, cout, 1, kernel=1)  # the embedding's linear layer
        if cin != cout:
            conv(cin, cout, size, kernel=1)
        for _ in range(4 if attention else 0):  # q, k, v, output
            conv(cout, cout, size, kernel=1)

    # The sinusoids keep their 128 values at every width.
    total += 128 * 4 * base + (4 * base)**2
    conv(3, base, 32)
    sizes, channels = [32, 16, 8, 4], [base, 2 * base, 2 * base, 2 * base]
    skips, current = [base], base
    for level, (size, out) in enumerate(zip(sizes, channels)):
        for _ in range(2):
            block(current, out, size, attention=size == 16)
            current = out
            skips.append(current)
        if level < 3:
            conv(current, current, size // 2)
            skips.append(current)
    block(current, current, 4, attention=True)
    block(current, current, 4)
    for level, (size, out) in reversed(list(enumerate(zip(sizes, channels)))):
        for _ in range(3):
            block(current + skips.pop(), out, size, attention=size == 16)
            current = out
        if level:
            conv(current, current, size * 2)
    conv(current, 3, 32)
    return total


@pytest.mark.parametrize('width', [0.25, 0.5, 0.75, 1.0])
def test_counts_are_exact_at_every_width(network, width):
    cost = count_cost(network.extract(width), torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))
    assert cost.conv_linear_macs == published_macs(width)


def test_the_full_network_is_the_papers(network):
    assert sum(p.numel() for p in network.parameters()) == 35_746_307  # 35.7 M in Ho et al. (2020), appendix B
    # The paper prints 12.14 GFLOPs; the layers, counted as its released code counts them, have 12.108.
    assert abs(2 * published_macs(1.0) / 12.14e9 - 1) < 0.003

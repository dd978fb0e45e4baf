import pytest
import torch
from torch import nn
from torch.profiler import profile

from slimdiff.functional.precision import has_bf16_products, warn_of_slow_bf16


def test_it_says_which_convolution_pytorch_takes():
    conv = nn.Conv2d(16, 16, 3, padding=1).bfloat16()
    with torch.no_grad(), profile() as profiled:
        conv(torch.randn(4, 16, 16, 16, dtype=torch.bfloat16))
    called = {event.key for event in profiled.key_averages()}
    assert ('aten::mkldnn_convolution' in called) == has_bf16_products('cpu')
    assert ('aten::_slow_conv2d_forward' in called) == (not has_bf16_products(torch.device('cpu')))


@pytest.mark.parametrize('capability, expected', [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert has_bf16_products('cuda:0') is expected


@pytest.mark.parametrize('fast', [True, False])
def test_the_warning(monkeypatch, recwarn, fast):
    monkeypatch.setattr('slimdiff.functional.precision.has_bf16_products', lambda device: fast)
    warn_of_slow_bf16('cpu')
    assert ['float32 (without --amp) is faster' in str(w.message) for w in recwarn] == ([] if fast else [True])

"""What holds for every registered resampler, and what is special to some."""

import pytest
import torch
import torch.nn.functional as F

from slimdiff.functional.wavelet import dwt2, idwt2
from slimdiff.models import resamplers
from slimdiff.registry import RESAMPLERS

NAMES = sorted(name for name in resamplers.__all__ if name.endswith(('Down', 'Up')))
EXTRA = {
    'ConvDown': [dict(asymmetric=True)],
    'WaveletDown': [dict(wavelet='db2')],
    'WaveletUp': [dict(wavelet='bior2.2')],
    'WaveletGatedDown': [dict(combine='sum'), dict(wavelet='db2'), dict(wavelet='sym4', combine='sum')],
    'WaveletGatedUp': [dict(wavelet='db2')],
}
CASES = [dict(type=name, **extra) for name in NAMES for extra in [{}] + EXTRA.get(name, [])]
IDS = ['-'.join(map(str, case.values())) for case in CASES]


def build(case, channels=8):
    torch.manual_seed(0)
    return RESAMPLERS.build(dict(case, channels=channels))


def image(*shape, memory_format=torch.channels_last):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=memory_format)


def test_all_names_are_registered():
    assert {'ConvDown', 'NearestConvUp', 'AvgPoolDown', 'NearestUp', 'PixelUnshuffleDown', 'PixelShuffleUp',
            'WaveletDown', 'WaveletUp', 'WaveletGatedDown', 'WaveletGatedUp'} <= set(RESAMPLERS.module_dict)


@pytest.mark.parametrize('case', CASES, ids=IDS)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_shape_layout_and_gradients(case, memory_format):
    module = build(case).to(memory_format=memory_format)
    x = image(3, 8, 16, 12, memory_format=memory_format).requires_grad_()
    y = module(x)
    assert y.shape == ((3, 8, 8, 6) if case['type'].endswith('Down') else (3, 8, 32, 24))
    assert y.is_contiguous(memory_format=memory_format)
    y.square().mean().backward()
    for name, tensor in [('x', x), *module.named_parameters()]:
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all() and tensor.grad.abs().sum() > 0, name


@pytest.mark.parametrize('case', CASES, ids=IDS)
def test_bfloat16(case):
    module = build(case)
    x = image(2, 8, 8, 8)
    expected = module(x)
    with torch.autocast('cpu', torch.bfloat16):
        y = module(x.requires_grad_())
    y.float().square().mean().backward()
    torch.testing.assert_close(y.float(), expected, atol=6e-2, rtol=6e-2)
    assert torch.isfinite(x.grad).all()
    y = module.bfloat16()(x.detach().bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, atol=6e-2, rtol=6e-2)


@pytest.mark.parametrize('case', CASES, ids=IDS)
def test_state_dict_reloads(case):
    module, other = build(case), RESAMPLERS.build(dict(case, channels=8))
    other.load_state_dict(module.state_dict(), strict=True)
    x = image(2, 8, 8, 8)
    assert torch.equal(module(x), other(x))


@pytest.mark.parametrize('case', CASES, ids=IDS)
def test_compiles_and_traces(case):
    torch._dynamo.reset()
    module, x = build(case), image(2, 8, 16, 8).requires_grad_()
    expected = module(x)
    y = torch.compile(module, fullgraph=True, backend='aot_eager')(x)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    (grad, ), (expected_grad, ) = (torch.autograd.grad(a.square().sum(), x) for a in (y, expected))
    torch.testing.assert_close(grad, expected_grad, atol=1e-4, rtol=1e-4)
    traced = torch.jit.trace(module, x.detach(), check_trace=False)
    torch.testing.assert_close(traced(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('name', [name for name in NAMES if name.endswith('Down')])
def test_odd_sizes_are_refused(name):
    for size in [(5, 4), (4, 5), (3, 3)]:
        with pytest.raises(ValueError, match=f'height {size[0]} and width {size[1]}; halving needs even'):
            build(dict(type=name))(torch.zeros(1, 8, *size))


def test_conv_down_padding():
    x = image(1, 8, 6, 6)
    both, right = build(dict(type='ConvDown')), build(dict(type='ConvDown', asymmetric=True))
    torch.testing.assert_close(both(x), F.conv2d(x, both.conv.weight, both.conv.bias, stride=2, padding=1))
    padded = F.conv2d(F.pad(x, (0, 1, 0, 1)), right.conv.weight, right.conv.bias, stride=2)
    torch.testing.assert_close(right(x), padded)


def test_pixel_unshuffle_is_unshuffle_then_convolution():
    module, x = build(dict(type='PixelUnshuffleDown')), image(2, 8, 6, 4)
    torch.testing.assert_close(module(x), module.conv(F.pixel_unshuffle(x, 2)))


@pytest.mark.parametrize('wavelet', ['haar', 'db2'])
def test_wavelet_resamplers_by_their_definition(wavelet):
    x = image(2, 8, 16, 16)
    down, up = (build(dict(type=name, wavelet=wavelet)) for name in ('WaveletDown', 'WaveletUp'))
    torch.testing.assert_close(down(x), down.project(dwt2(x, wavelet).flatten(1, 2)))
    torch.testing.assert_close(up(x), up.project(idwt2(x.unflatten(1, (4, 2)), wavelet)))


def gates_by_hand(gate, x, band_channels):
    hidden = F.silu(x.mean((2, 3)) @ gate.reduce.weight.t())
    return torch.sigmoid(hidden @ gate.expand.weight.t()).view(len(x), 4, band_channels, 1, 1)


@pytest.mark.parametrize('wavelet', ['haar', 'db2'])
@pytest.mark.parametrize('size', [8, 16])  # the gates stay outside, or go into the 1x1 convolution's weight
def test_wavelet_gated_by_its_definition(wavelet, size):
    x = image(3, 8, size, size)
    for combine in ('concat', 'sum'):
        module = build(dict(type='WaveletGatedDown', wavelet=wavelet, combine=combine))
        gated = dwt2(x, wavelet) * gates_by_hand(module.gate, x, 8)
        expected = gated.sum(1) if combine == 'sum' else module.project(gated.flatten(1, 2))
        torch.testing.assert_close(module(x), expected)
    module = build(dict(type='WaveletGatedUp', wavelet=wavelet))
    gated = x.unflatten(1, (4, 2)) * gates_by_hand(module.gate, x, 2)
    torch.testing.assert_close(module(x), module.project(idwt2(gated, wavelet)))


def test_gates_can_be_recorded():
    x = image(3, 8, 8, 8)
    for name, band_channels in (('WaveletGatedDown', 8), ('WaveletGatedUp', 2)):
        module, seen = build(dict(type=name, hidden=3)), []
        module.gate.register_forward_hook(lambda module, inputs, gates, seen=seen: seen.append(gates))
        module(x)
        assert seen[0].shape == (3, 4, band_channels)
        assert ((seen[0] > 0) & (seen[0] < 1)).all()
        assert module.gate.reduce.weight.shape == (3, 8) and module.gate.reduce.bias is None


def test_sum_has_no_weights_but_the_gate():
    assert {name for name, _ in build(dict(type='WaveletGatedDown', combine='sum')).named_parameters()} == {
        'gate.reduce.weight', 'gate.expand.weight'}


def test_errors_name_the_cure():
    for name in ('WaveletUp', 'WaveletGatedUp'):
        with pytest.raises(ValueError, match=f'{name}: 6 channels do not divide into 4.*4 or 8'):
            build(dict(type=name), channels=6)
    with pytest.raises(ValueError, match=r"combine: got 'concatt'.*Did you mean 'concat'.*'sum'"):
        build(dict(type='WaveletGatedDown', combine='concatt'))
    with pytest.raises(ValueError, match=r"wavelet: got 'harr'.*Did you mean 'haar'"):
        build(dict(type='WaveletGatedDown', wavelet='harr'))
    with pytest.raises(ValueError, match='hidden: got 0'):
        build(dict(type='WaveletGatedUp', hidden=0))
    with pytest.raises(ValueError, match="Did you mean 'WaveletGatedDown'"):
        build(dict(type='WaveletGateDown'))

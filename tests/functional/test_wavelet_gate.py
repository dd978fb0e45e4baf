"""The fast paths against "transform, gate, sum" written out, values and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from slimdiff.functional import haar
from slimdiff.functional.wavelet import dwt2
from slimdiff.functional.wavelet_gate import gated_bands, gated_projection, gated_sum, projection_folds, spatial_mean

FORMATS = [torch.contiguous_format, torch.channels_last]


def inputs(shape=(5, 3, 8, 6), memory_format=torch.contiguous_format, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    gates = torch.rand(shape[0], 4, shape[1], generator=generator, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=memory_format).requires_grad_(), gates.requires_grad_()


def plain_bands(x, gates, wavelet='haar'):
    return dwt2(x, wavelet) * gates[..., None, None]


def plain_sum(x, gates, wavelet='haar'):
    return plain_bands(x, gates, wavelet).sum(1)


def assert_same(function, oracle, arguments, **tolerance):
    y, expected = function(*arguments), oracle(*arguments)
    torch.testing.assert_close(y, expected, **tolerance)
    start = torch.randn_like(expected)
    got, wanted = (torch.autograd.grad((out * start).sum(), arguments) for out in (y, expected))
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('chunk', [1, 300, 1 << 20])  # one sample at a time, two, all
@pytest.mark.parametrize('wavelet', ['haar', 'db2'])
def test_equal_the_plain_formula(memory_format, chunk, wavelet, monkeypatch):
    monkeypatch.setattr(haar, 'CHUNK', chunk)
    arguments = inputs(memory_format=memory_format)
    assert_same(lambda x, g: gated_sum(x, g, wavelet), lambda x, g: plain_sum(x, g, wavelet), arguments)
    assert_same(lambda x, g: gated_bands(x, g, wavelet), lambda x, g: plain_bands(x, g, wavelet), arguments)


def test_a_cell_by_hand():
    x = torch.tensor([[1., 2.], [3., 5.]])[None, None]
    gates = torch.tensor([1., .5, .25, .125])[None, :, None]
    # bands 5.5, -2.5, -1.5, 0.5
    assert gated_sum(x, gates).item() == pytest.approx(5.5 - 1.25 - .375 + .0625)


@pytest.mark.parametrize('memory_format', FORMATS)
def test_gradcheck(memory_format):
    arguments = inputs((2, 2, 4, 4), memory_format)
    assert gradcheck(gated_sum, arguments)
    assert gradcheck(gated_bands, arguments)
    y = gated_sum(*arguments)
    (grad, ) = torch.autograd.grad(y.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.parametrize('memory_format', FORMATS)
def test_projection_equals_the_convolution_of_gated_bands(memory_format):
    x, gates = inputs(memory_format=memory_format)
    weight = torch.randn(7, 12, 1, 1, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert_same(gated_projection, lambda x, g, w, b: F.conv2d(plain_bands(x, g).flatten(1, 2), w, b),
                (x, gates, weight, bias))
    y = gated_projection(x, gates, weight, None)
    torch.testing.assert_close(y, F.conv2d(plain_bands(x, gates).flatten(1, 2), weight))
    assert y.is_contiguous(memory_format=memory_format)


def test_projection_folds_where_cells_outnumber_channels():
    assert projection_folds(torch.zeros(1, 64, 64, 64), 64)
    assert not projection_folds(torch.zeros(1, 256, 16, 16), 256)


@pytest.mark.parametrize('memory_format', FORMATS)
def test_bfloat16_and_mixed_dtypes(memory_format):
    x, gates = inputs(memory_format=memory_format)
    expected = plain_sum(x, gates)
    for dtypes in [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]:
        a, b = x.detach().to(dtypes[0]).requires_grad_(), gates.detach().to(dtypes[1]).requires_grad_()
        with torch.autocast('cpu', torch.bfloat16):
            y = gated_sum(a, b)
        assert y.dtype == a.dtype and y.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(y.double(), expected, atol=5e-2, rtol=5e-2)
        y.sum().backward()
        assert a.grad.dtype == a.dtype and b.grad.dtype == b.dtype


def test_a_gradient_of_another_layout_and_strided_input():
    x, gates = inputs(memory_format=torch.channels_last)
    start = torch.randn(5, 3, 4, 3, dtype=torch.float64)  # NCHW, while x is NHWC
    got = torch.autograd.grad(gated_sum(x, gates), (x, gates), start)
    wanted = torch.autograd.grad(plain_sum(x, gates), (x, gates), start)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b)
    strided = torch.randn(5, 3, 8, 12, dtype=torch.float64)[..., ::2].requires_grad_()
    assert_same(gated_sum, plain_sum, (strided, gates))
    assert_same(gated_bands, plain_bands, (strided, gates))


def test_spatial_mean():
    for dtype in (torch.float64, torch.float32, torch.float16):
        x = torch.rand(2, 3, 4, 6).to(dtype)
        torch.testing.assert_close(spatial_mean(x), x.mean((2, 3)))


def test_errors():
    x, gates = inputs()
    with pytest.raises(ValueError, match=r'gates: got the shape \(5, 4, 2\).*\(5, 4, 3\)'):
        gated_sum(x, gates[..., :2])
    with pytest.raises(ValueError, match='height 7'):
        gated_bands(x[:, :, :7], gates)
    with pytest.raises(ValueError, match="Did you mean 'sym4'"):
        gated_sum(x, gates, 'simm4')

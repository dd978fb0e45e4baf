"""Bands and reconstruction against PyWavelets; Haar against its closed form."""

import numpy as np
import pytest
import pywt
import torch
from torch.autograd import gradcheck, gradgradcheck

from slimdiff.functional.wavelet import check_wavelet, dwt2, idwt2, is_haar

WAVELETS = pywt.wavelist(kind='discrete')
# One of each kind: Haar, longer than the images below, biorthogonal with unequal filters, nearly exact.
SOME = ['haar', 'db2', 'bior1.3', 'rbio3.1']


def images(shape, memory_format=torch.contiguous_format, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).contiguous(
        memory_format=memory_format)


def pywt_bands(x, wavelet):
    low, (horizontal, vertical, diagonal) = pywt.dwt2(x.double().numpy(), wavelet, mode='periodization')
    return torch.from_numpy(np.stack([low, horizontal, vertical, diagonal], 1))


def pywt_image(bands, wavelet):
    low, *details = (band.numpy() for band in bands.double().unbind(1))
    return torch.from_numpy(pywt.idwt2((low, tuple(details)), wavelet, mode='periodization'))


@pytest.mark.parametrize('wavelet', WAVELETS)
def test_equals_pywavelets(wavelet):
    # 2x4 is shorter than all filters but Haar's: they wrap round several times.
    for shape in [(2, 3, 2, 4), (2, 3, 16, 10), (1, 2, 64, 32)]:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = images(shape, memory_format)
            bands = dwt2(x, wavelet)
            torch.testing.assert_close(bands, pywt_bands(x, wavelet), atol=1e-9, rtol=0)
            torch.testing.assert_close(idwt2(bands, wavelet), pywt_image(bands, wavelet), atol=1e-9, rtol=0)
            if wavelet != 'dmey':  # its published filters are rounded: PyWavelets' round trip is off as well
                torch.testing.assert_close(idwt2(bands, wavelet), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize('wavelet', SOME)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_single_and_half_precision(wavelet, dtype, tolerance):
    x = images((2, 3, 8, 12), torch.channels_last, dtype)
    bands = dwt2(x, wavelet)
    assert bands.dtype == dtype and idwt2(bands, wavelet).dtype == dtype
    torch.testing.assert_close(bands.double(), pywt_bands(x, wavelet), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(idwt2(bands, wavelet).double(), x.double(), atol=2 * tolerance, rtol=tolerance)


def test_haar_closed_form_and_energy():
    cell = torch.tensor([[1., 2.], [3., 5.]], dtype=torch.float64)[None, None]
    assert dwt2(cell).flatten().tolist() == [5.5, -2.5, -1.5, 0.5]  # sums and differences, halved
    x = images((2, 3, 6, 8))
    assert torch.allclose(dwt2(x).square().sum(), x.square().sum())
    for name in ('db1', 'bior1.1', 'rbio1.1', 'HAAR'):
        assert is_haar(name) and torch.equal(dwt2(x, name), dwt2(x))


@pytest.mark.parametrize('wavelet', SOME)
def test_memory_format(wavelet):
    x = images((2, 4, 8, 6), torch.channels_last)
    bands = dwt2(x, wavelet)
    stacked = bands.flatten(1, 2)
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    assert stacked.data_ptr() == bands.data_ptr()
    assert idwt2(bands, wavelet).is_contiguous(memory_format=torch.channels_last)
    x = x.contiguous()
    assert dwt2(x, wavelet).is_contiguous() and idwt2(dwt2(x, wavelet), wavelet).is_contiguous()
    strided = images((2, 4, 8, 12))[..., ::2]
    torch.testing.assert_close(dwt2(strided, wavelet), pywt_bands(strided, wavelet))


@pytest.mark.parametrize('wavelet', SOME)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_gradients(wavelet, memory_format):
    x = images((2, 2, 4, 6), memory_format).requires_grad_()
    bands = dwt2(x.detach(), wavelet).requires_grad_()
    for function, argument in ((dwt2, x), (idwt2, bands)):
        assert gradcheck(lambda a, f=function: f(a, wavelet), argument)
        assert gradgradcheck(lambda a, f=function: f(a, wavelet).square(), argument)


def test_matrices_cached_under_inference_mode_can_be_trained_with():
    x = images((1, 1, 20, 22))
    with torch.inference_mode():
        dwt2(x, 'db3')
    x.requires_grad_()
    dwt2(x, 'db3').square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # orthogonal: the gradient of the energy is 2 x


@pytest.mark.parametrize('wavelet', ['haar', 'bior2.2'])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_compiles_without_a_graph_break(wavelet, memory_format):
    def halve_details(x):
        scale = torch.tensor([1, .5, .5, .5], dtype=x.dtype)
        return idwt2(dwt2(x, wavelet) * scale[:, None, None, None], wavelet)

    torch._dynamo.reset()
    x = images((2, 4, 8, 6), memory_format).requires_grad_()
    y = torch.compile(halve_details, fullgraph=True, backend='aot_eager')(x)
    expected = halve_details(x)
    torch.testing.assert_close(y, expected)
    assert y.stride() == expected.stride()
    (grad, ), (expected_grad, ) = (torch.autograd.grad(a.square().sum(), x) for a in (y, expected))
    torch.testing.assert_close(grad, expected_grad)


def test_errors():
    with pytest.raises(ValueError, match=r"got 'harr'.*Did you mean 'haar'"):
        check_wavelet('harr')
    with pytest.raises(ValueError, match=r"got 'mexh'"):  # continuous: no filters
        dwt2(torch.zeros(1, 1, 4, 4), 'mexh')
    for shape in [(1, 1, 5, 4), (1, 1, 4, 5), (1, 1, 0, 4)]:
        with pytest.raises(ValueError, match=f'height {shape[2]} and width {shape[3]}'):
            dwt2(torch.zeros(shape))
    with pytest.raises(ValueError, match='four axes'):
        dwt2(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r'\(1, 3, 1, 4, 4\)'):
        idwt2(torch.zeros(1, 3, 1, 4, 4))

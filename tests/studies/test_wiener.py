"""The closed forms, and the supplement's misprints, against what Gaussian random fields do."""

import json
from pathlib import Path

import pytest
import torch

from studies import wiener
from studies.wiener_study import crossing, plot_wiener, ring_means

ROOT = Path(__file__).parents[2]
SIZE, BETA = 16, 2.0


@pytest.fixture(scope='module')
def spectra():
    """Fourier coefficients of 20,000 fields and of as much noise, complex128."""
    generator = torch.Generator().manual_seed(0)
    spectrum = wiener.power_law_spectrum(SIZE, BETA)
    x0 = wiener.gaussian_field(spectrum, 20_000, generator).double()
    eps = torch.randn(x0.shape, generator=generator).double()
    return spectrum, *(torch.fft.fft2(v, norm='ortho') for v in (x0, eps))


def power(x):
    return x.abs().square()


def test_fields_have_their_spectrum(spectra):
    spectrum, x0, _ = spectra
    assert spectrum.mean().item() == pytest.approx(1)
    # |F x|^2 is exponential, or chi squared of one degree where F x is real: a spread of sqrt(2 / 20,000) at most.
    assert (power(x0).mean(0) / spectrum - 1).abs().max() < 0.05
    # f doubles, power falls to a quarter.
    assert (spectrum[0, 2] / spectrum[0, 4]).item() == pytest.approx(4)


@pytest.mark.parametrize('alpha_bar', [0.9, 0.5, 0.1])
def test_eq_10_lacks_the_root_of_one_minus_alpha_bar(spectra, alpha_bar):
    spectrum, x0, eps = spectra
    x_t = alpha_bar**0.5 * x0 + (1 - alpha_bar)**0.5 * eps
    # Least squares at each frequency, without any formula: sum conj(x_t) eps / sum |x_t|^2.
    fitted = (x_t.conj() * eps).mean(0).real / power(x_t).mean(0)
    ours, printed = wiener.noise_filter(spectrum, alpha_bar), wiener.supplement_filter(spectrum, alpha_bar)
    error, fitted_ours, fitted_printed = power(ours * x_t - eps), fitted / ours, fitted / printed
    spread = wiener.snr(spectrum, alpha_bar) * (2 / 20_000)**0.5  # of a least-squares gain, relative
    assert ((fitted_ours - 1).abs() < 5 * spread + 1e-3).all()
    torch.testing.assert_close(printed * (1 - alpha_bar)**0.5, ours)
    assert fitted_printed.mean().item() == pytest.approx((1 - alpha_bar)**0.5, rel=0.01)
    # The printed filter is worse than ours at every frequency where it matters, and predicts too much everywhere.
    assert power(printed * x_t - eps).mean() > error.mean() + 0.9 * (1 - (1 - alpha_bar)**0.5)**2 * power(
        printed * x_t).mean()
    # Our error is the formula's.
    expected = wiener.noise_error(wiener.snr(spectrum, alpha_bar))
    assert (error.mean(0) / expected - 1).abs().max() < 0.06


@pytest.mark.parametrize('sigma2', [0.25, 2.0])
def test_eq_13_is_eq_14_only_after_division(spectra, sigma2):
    """Additive model x + eps of noise power sigma^2, filter sigma^2 / (S + sigma^2), as the supplement has it."""
    spectrum, x, white = spectra
    eps = sigma2**0.5 * white
    measured = power(sigma2 / (spectrum + sigma2) * (x + eps) - eps).mean(0)
    eq_13 = wiener.additive_error(spectrum, sigma2)
    assert (measured / eq_13 - 1).abs().max() < 0.06
    ratio = (spectrum / sigma2).sqrt()
    eq_14 = 1 / (1 / ratio + ratio)
    torch.testing.assert_close(eq_14, wiener.g(ratio))
    # As printed the two differ by far, with either reading of SNR; divided by |X| sigma they are equal.
    assert (measured / eq_14 - 1).abs().max() > 0.5
    assert (measured / wiener.g(ratio.square()) - 1).abs().max() > 0.5
    torch.testing.assert_close(eq_13 / (spectrum * sigma2).sqrt(), eq_14)
    power_ratio = wiener.g(ratio.square()) * (spectrum * sigma2).sqrt()
    assert (eq_13 / power_ratio - 1).abs().max() > 0.2


def test_error_against_snr():
    ratio = torch.logspace(-2, 2, 401, dtype=torch.float64)
    noise, signal, g = wiener.noise_error(ratio), wiener.signal_error(ratio), wiener.g(ratio)
    assert (noise.diff() > 0).all() and (signal.diff() < 0).all()
    torch.testing.assert_close(noise + signal, torch.ones_like(ratio))
    torch.testing.assert_close(g, (noise * signal).sqrt())
    # g has its one maximum, 1/2, at SNR = 1.
    assert g.argmax().item() == 200 and g.max().item() == pytest.approx(0.5)
    # g^2 is half the rate of the recovered share in log SNR.
    rate = torch.gradient(wiener.recovered_share(ratio), spacing=(ratio.log(),))[0]
    torch.testing.assert_close(rate[1:-1] / 2, g.square()[1:-1], rtol=1e-3, atol=1e-6)


def test_signal_filter_undoes_what_the_noise_filter_predicts():
    spectrum, a = wiener.power_law_spectrum(8, 1.5), 0.3
    restored = (1 - (1 - a)**0.5 * wiener.noise_filter(spectrum, a)) / a**0.5
    torch.testing.assert_close(restored, wiener.signal_filter(spectrum, a))


def test_low_frequencies_first():
    """The share recovered at the given frequency is 1/2, and the frequency rises as the noise falls."""
    a = torch.tensor([0.01, 0.1, 0.5, 0.9], dtype=torch.float64)
    for beta, scale in ((1.0, 0.3), (2.0, 0.02), (3.0, 1.0)):
        f = wiener.recovered_frequency(a, beta, scale)
        assert (f.diff() > 0).all()
        torch.testing.assert_close(wiener.recovered_share(wiener.snr(scale * f**-beta, a)), torch.full_like(a, 0.5))
    assert wiener.recovered_frequency(torch.tensor(0.5), 2.0, 0.04).item() == pytest.approx(0.2)  # by hand
    with pytest.raises(ValueError, match=r'beta=0\.0'):
        wiener.recovered_frequency(a, 0.0)


def test_crossing_is_exact_for_a_power_law():
    f = torch.arange(1, 17, dtype=torch.float64) / 32
    a = torch.tensor(0.3, dtype=torch.float64)
    share = wiener.recovered_share(wiener.snr(0.02 * f**-2.5, a))
    assert crossing(f, share) == pytest.approx(wiener.recovered_frequency(a, 2.5, 0.02).item())
    assert crossing(f, torch.ones(16)) is None and crossing(f, torch.zeros(16)) is None


def test_energy_band_by_hand():
    spectrum = torch.tensor([[4.0, 1.0], [3.0, 2.0]])
    assert wiener.energy_band(spectrum, 0.4).tolist() == [[True, False], [False, False]]
    assert wiener.energy_band(spectrum, 0.7).tolist() == [[True, False], [True, False]]
    assert wiener.energy_band(spectrum, 0.71).tolist() == [[True, False], [True, True]]
    assert wiener.energy_band(spectrum, 1.0).all()
    with pytest.raises(ValueError, match='share=0'):
        wiener.energy_band(spectrum, 0)


def test_relative_error_and_rings_by_hand():
    expected = torch.full((4, 4), 2.0)
    response = expected.clone()
    response[0, 0] = 2.2
    band = torch.zeros(4, 4, dtype=torch.bool)
    band[0, :2] = True
    assert wiener.relative_error(response, expected, band).item() == pytest.approx((0.1**2 / 2)**0.5)
    rings = ring_means(torch.arange(16.0).view(4, 4))
    # Ring 1 of 4x4: the four neighbours of zero and their diagonals (sqrt(2) rounds to 1); ring 2: the rest.
    assert rings.tolist() == [pytest.approx((1 + 3 + 4 + 12 + 5 + 7 + 13 + 15) / 8),
                              pytest.approx((2 + 6 + 8 + 9 + 11 + 14) / 6)]


def test_the_training_loss_is_that_of_filtering_pixels():
    """Both noisy fields filtered by the module, the error taken pixel by pixel: the same value."""
    a = torch.tensor([0.9, 0.3])
    model = wiener.CircularFilter(8, 2)
    torch.nn.init.normal_(model.gain)
    x0, eps = torch.randn(2, 5, 8, 8).unbind()
    scale = a.view(-1, 1, 1, 1)
    both = sum((model(scale.sqrt() * x0 + sign * (1 - scale).sqrt() * eps) - sign * eps).square().mean((1, 2, 3))
               for sign in (1, -1)) / 2
    response = model.response()[..., :5].to(torch.complex64)  # Hermitian: what the module really applies
    torch.testing.assert_close(wiener.antithetic_loss(response, a, x0, eps), both, rtol=1e-4, atol=1e-5)


def test_a_trained_filter_becomes_the_closed_form():
    spectrum = wiener.power_law_spectrum(16, 2.0)
    a = torch.tensor([0.9, 0.4], dtype=torch.float64)
    model = wiener.train_filter(spectrum, a.tolist(), iterations=600, batch_size=64, lr=0.02, seed=1)
    expected = wiener.noise_filter(spectrum, a.view(-1, 1, 1))
    error = wiener.relative_error(model.response(), expected, wiener.energy_band(spectrum, 0.95))
    assert (error < 0.04).all() and error.min() > 0
    # A convolution in space: an impulse gives the kernel, whose DFT is the response.
    impulse = torch.zeros(2, 1, 16, 16)
    impulse[..., 0, 0] = 1
    response = torch.fft.fft2(model(impulse)[:, 0].detach()).to(model.response().dtype)
    torch.testing.assert_close(response, model.response(), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r'alpha_bars=\[1\.0\]'):
        wiener.train_filter(spectrum, [1.0])


def test_command(tmp_path, run_tool):
    done = run_tool('analysis_tools/wiener.py', '--out', tmp_path / 'out', '--seeds', 0, 1, '--iterations', 40,
                    '--image-size', 16, '--betas', 2, '--timesteps', 100, 400)
    assert '| 1/f^2.0 |' in done.stdout and '±' in done.stdout
    result = json.loads((tmp_path / 'out/wiener.json').read_text())
    assert len(result['betas']['2.0']['relative_error']) == 2 and 'tools/analysis_tools/wiener.py' in result['command']
    assert (tmp_path / 'out/wiener.png').stat().st_size > 5000
    done = run_tool('analysis_tools/wiener.py', '--timesteps', 1000, status=2)
    assert 'must lie in 0..999' in done.stderr


def test_the_committed_numbers_say_what_the_page_says(tmp_path):
    """Under 2 % over the band that carries energy, for every spectrum, seed and timestep."""
    result = json.loads((ROOT / 'benchmarks/results/wiener.json').read_text())
    assert len(result['seeds']) >= 3 and result['setting']['band_share'] >= 0.95
    for values in result['betas'].values():
        assert max(max(row) for row in values['relative_error']) < 0.02
        for measured, closed in zip(values['recovered'], values['closed_recovered']):
            assert measured is None or measured == pytest.approx(closed, rel=0.1)
        for measured, closed in zip(values['error'], values['closed_error']):
            assert measured == pytest.approx(closed, rel=0.1, abs=2e-3)
    plot_wiener(result, tmp_path / 'wiener.png')
    assert (ROOT / 'docs/en/_static/wiener.png').is_file()

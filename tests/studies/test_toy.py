import json
import math
from pathlib import Path

import pytest
import torch

from studies import toy
from studies.toy import ToyData
from studies.toy_runs import plot_toy, run_toy

ROOT = Path(__file__).parents[2]


def test_signals_are_single_orthogonal_frequencies():
    data = ToyData((5, 3), (0.8, 0.2))
    signals = data.signals()
    assert signals[1, 4].item() == pytest.approx(math.cos(3 * 2 * math.pi * 4 / 40), abs=1e-6)
    torch.testing.assert_close(signals @ signals.t(), 20 * torch.eye(2), atol=1e-4, rtol=0)
    amplitude = torch.fft.rfft(signals).abs() / 20
    expected = torch.zeros(2, 21)
    expected[0, 5] = expected[1, 3] = 1
    torch.testing.assert_close(amplitude, expected, atol=1e-5, rtol=0)
    drawn = data.draw(10_000, torch.Generator().manual_seed(0))
    assert (drawn == signals[1]).all(1).float().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize('wrong, says', [
    (dict(frequencies=(5, 5)), r'got \[5, 5\]'), (dict(frequencies=(5, 20)), 'from 1 to 19'),
    (dict(probabilities=(0.5, 0.4)), 'add up to 1'), (dict(probabilities=(1.0,)), 'give one for each'),
    (dict(probabilities=(1.2, -0.2)), 'above 0')])
def test_wrong_mixtures_are_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        ToyData(**wrong)


def test_best_denoiser_is_the_posterior_mean():
    """By brute force: Bayes' rule with the densities of torch.distributions."""
    data = ToyData((1, 2, 3), (0.5, 0.3, 0.2), points=8)
    signals, a = data.signals().double(), torch.tensor([0.02, 0.2, 0.6], dtype=torch.float64)
    x_t = torch.randn(3, 8, dtype=torch.float64)
    expected = []
    for x, alpha in zip(x_t, a):
        density = [p * torch.distributions.Normal(alpha.sqrt() * s, (1 - alpha).sqrt()).log_prob(x).sum().exp()
                   for p, s in zip(data.probabilities, signals)]
        noise = [(x - alpha.sqrt() * s) / (1 - alpha).sqrt() for s in signals]
        expected.append(sum(d * n for d, n in zip(density, noise)) / sum(density))
    torch.testing.assert_close(toy.bayes_eps(x_t, a, signals, data.probabilities), torch.stack(expected),
                               rtol=1e-5, atol=1e-6)


def test_network_is_the_supplements():
    net = toy.ToyNet(64)
    assert [tuple(p.shape) for p in net.parameters()] == [(64, 41), (64,), (40, 64), (40,)]
    x, t = torch.randn(3, 40), torch.tensor([0, 500, 999])
    w, b, v, c = net.parameters()
    expected = torch.tanh(torch.cat([x, t[:, None] / 1000], 1) @ w.t() + b) @ v.t() + c
    torch.testing.assert_close(net(x, t), expected)
    torch.testing.assert_close(net(x[1:2], t[1]), expected[1:2])


def test_best_denoiser_generates_the_data():
    """Shares are the probabilities, and nothing lies between the signals: what a perfect network would show."""
    data = ToyData()
    measures = toy.measure_toy(toy.bayes_predictor(data), data, count=400, ddpm_steps=250)
    for sampler in ('ddpm', 'ddim'):
        assert measures[sampler]['share'] == pytest.approx([0.8, 0.2], abs=0.06)  # three standard errors
        assert measures[sampler]['neither'] == 0 and measures[sampler]['outside'] < 1e-3
        assert measures[sampler]['amplitude'][5] == pytest.approx(measures[sampler]['share'][0], abs=1e-3)
    assert all(e == 0 for row in measures['excess']['all'] for e in row)
    # Nearly clean, the signal is known and so is the noise; in nearly pure noise too.
    error = measures['error']['at'][1][1]
    assert error[0] < 1e-6 and error[2] > 0.05 and error[4] < 0.01


def test_samples_are_described_by_hand():
    data = ToyData()
    five, three = data.signals()
    samples = torch.stack([five, five, three, 0.8 * five, five + three, 0 * five])
    seen = toy.describe_samples(samples, data)
    assert seen['share'] == pytest.approx([3 / 6, 1 / 6]) and seen['neither'] == pytest.approx(2 / 6)
    assert seen['amplitude'][5] == pytest.approx((1 + 1 + 0.8 + 1) / 6, abs=1e-5)
    assert seen['amplitude'][3] == pytest.approx(2 / 6, abs=1e-5) and seen['outside'] < 1e-5
    other = ToyData((7,), (1.0,)).signals().expand(2, -1)
    assert toy.describe_samples(other, data)['outside'] == pytest.approx(0.5**0.5, rel=1e-4)


def test_error_of_a_known_predictor():
    """One that says zero has error 1 at each frequency; one off by a cosine of amplitude c at k: 10 c^2 there."""
    data = ToyData()
    zero = toy.band_errors(lambda x, t: torch.zeros_like(x), data, count=500)
    assert zero['error'].shape == (2, 5, 21)
    assert (zero['error'] - 1).abs().max() < 0.3 and zero['error'].mean().item() == pytest.approx(1, abs=0.02)
    best = toy.bayes_predictor(data)
    shift = 0.3 * torch.cos(2 * math.pi * 4 * torch.arange(40) / 40)
    off = toy.band_errors(lambda x, t: best(x, t) + shift, data, count=50)['excess']
    expected = torch.zeros(21, dtype=torch.float64)
    expected[4] = 10 * 0.3**2  # |DFT| = 0.3 * 40 / 2 / sqrt(40)
    torch.testing.assert_close(off, expected.expand_as(off), atol=1e-4, rtol=1e-4)


def test_training_lowers_the_error_and_repeats():
    data = ToyData()
    nets = [toy.train_toy(data, 32, seed, iterations=300, batch_size=200) for seed in (0, 0, 1)]
    for a, b, c in zip(*(net.parameters() for net in nets)):
        assert torch.equal(a, b) and not torch.equal(a, c)
    before = toy.band_errors(toy.ToyNet(32), data, 200)['excess'].mean()
    assert toy.band_errors(nets[0], data, 200)['excess'].mean() < 0.6 * before
    with pytest.raises(ValueError, match='hidden=0'):
        toy.train_toy(data, 0, 0)


def test_the_queue_resumes(tmp_path, monkeypatch):
    from studies import toy_runs
    trained = []
    train = toy.train_toy
    monkeypatch.setattr(toy_runs, 'train_toy', lambda data, m, seed, *a, **k: trained.append((m, seed)) or train(
        data, m, seed, *a, **k))

    def run(**kwargs):
        return run_toy(tmp_path / 'toy.json', ToyData(), **dict(dict(hidden=(4, 8), iterations=5, count=10), **kwargs))

    first = run(seeds=(0,))
    second = run(seeds=(0, 1))
    assert trained == [(4, 0), (8, 0), (4, 1), (8, 1)]
    assert second['runs']['M4-seed0'] == first['runs']['M4-seed0']
    summary = second['summary']['M8']['ddpm/outside']
    values = [second['runs'][f'M8-seed{s}']['ddpm']['outside'] for s in (0, 1)]
    assert summary['mean'] == pytest.approx(sum(values) / 2, rel=1e-3) and summary['seeds'] == 2
    assert summary['std'] == pytest.approx(abs(values[0] - values[1]) / 2**0.5, rel=1e-2, abs=1e-3)
    with pytest.raises(ValueError, match=r'another setting, with other values of\n    iterations: 5 -> 6\n'):
        run(iterations=6)


def test_command(tmp_path, run_tool):
    options = ['--out', tmp_path / 'out', '--iterations', 3, '--num-samples', 8, '--hidden', 4, '--frequencies', 2, 7]
    done = run_tool('analysis_tools/toy_signal.py', *options, '--seeds', 0, 1)
    assert '| DDPM: share of samples at frequency 7 | 0.200 |' in done.stdout
    result = json.loads((tmp_path / 'out/toy_signal.json').read_text())
    assert sorted(result['runs']) == ['M4-seed0', 'M4-seed1']
    assert (tmp_path / 'out/toy_signal.png').stat().st_size > 5000
    done = run_tool('analysis_tools/toy_signal.py', *options, '--probabilities', 0.5, 0.4, status=2)
    assert 'add up to 1' in done.stderr


def test_the_committed_run_is_the_supplements(tmp_path):
    result = json.loads((ROOT / 'benchmarks/results/toy_signal.json').read_text())
    setting = result['setting']
    assert (setting['points'], setting['iterations'], setting['batch_size'], setting['lr']) == (40, 10_000, 1000, 1e-3)
    assert sorted(result['runs']) == [f'M{m}-seed{s}' for m in (1024, 64) for s in (0, 1, 2)]
    assert result['best']['ddpm']['share'] == pytest.approx(setting['probabilities'], abs=0.03)
    plot_toy(result, tmp_path / 'toy.png')
    assert (ROOT / 'docs/en/_static/toy_signal.png').is_file()

import pytest
import torch

from slimdiff.models.losses import MinSNRWeight, P2Weight, UniformWeight, epsilon_equivalent, signal_to_noise

SNR = torch.tensor([1e-3, 0.1, 1.0, 5.0, 40.0], dtype=torch.float64)


def test_signal_to_noise_by_hand():
    torch.testing.assert_close(signal_to_noise(torch.tensor([0.5, 0.8])), torch.tensor([1.0, 4.0]))


def test_epsilon_equivalent_converts_real_errors():
    """Perturb x0 at fixed x_t and measure what happens to eps and v."""
    a = SNR / (1 + SNR)
    x0, eps, step = torch.randn(5).double(), torch.randn(5).double(), 1e-3
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    eps2 = (x_t - a.sqrt() * (x0 + step)) / (1 - a).sqrt()
    v, v2 = (a.sqrt() * e - (1 - a).sqrt() * x for e, x in ((eps, x0), (eps2, x0 + step)))
    error = (eps2 - eps)**2
    torch.testing.assert_close(error, epsilon_equivalent(SNR, 'sample') * step**2, rtol=1e-8, atol=0)
    torch.testing.assert_close(error, epsilon_equivalent(SNR, 'v_prediction') * (v2 - v)**2, rtol=1e-8, atol=0)


def test_min_snr_in_the_three_spaces():
    rule = MinSNRWeight(gamma=5)
    torch.testing.assert_close(rule(SNR, 'epsilon'), SNR.clamp(max=5) / SNR)
    torch.testing.assert_close(rule(SNR, 'sample'), SNR.clamp(max=5))
    torch.testing.assert_close(rule(SNR, 'v_prediction'), SNR.clamp(max=5) / (SNR + 1))
    assert rule(torch.zeros(1), 'epsilon').item() == 1


def test_p2_by_hand():
    assert P2Weight(gamma=1, k=1)(torch.tensor(3.0), 'epsilon').item() == pytest.approx(0.25)
    assert P2Weight(gamma=0.5, k=1)(torch.tensor(3.0), 'v_prediction').item() == pytest.approx(0.75 / 2)


@pytest.mark.parametrize('kind', ['epsilon', 'sample', 'v_prediction'])
def test_uniform_is_one(kind):
    assert torch.equal(UniformWeight()(SNR, kind), torch.ones_like(SNR))


def test_bad_arguments():
    with pytest.raises(ValueError, match='gamma'):
        MinSNRWeight(gamma=0)
    with pytest.raises(ValueError, match='gamma'):
        P2Weight(gamma=-1)
    with pytest.raises(ValueError, match='prediction_type'):
        epsilon_equivalent(SNR, 'noise')

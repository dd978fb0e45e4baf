import pytest
import torch

from slimdiff.functional.process import RectifiedFlow, VariancePreserving
from slimdiff.models.losses import MinSNRWeight, P2Weight, SD3Weight, UniformWeight, epsilon_equivalent

SNR = torch.tensor([1e-3, 0.1, 1.0, 5.0, 40.0], dtype=torch.float64)


def test_signal_to_noise_by_hand():
    process = VariancePreserving(torch.tensor([0.8, 0.5]))
    torch.testing.assert_close(process.snr(torch.tensor([0, 1])), torch.tensor([4.0, 1.0]).double())
    torch.testing.assert_close(RectifiedFlow().snr(torch.tensor([250.0, 500.0])), torch.tensor([9.0, 1.0]).double())


def test_a_flows_error_is_that_of_its_noise():
    """Perturb the velocity at fixed x_t and measure what happens to eps."""
    flow, t = RectifiedFlow(), torch.tensor([100.0, 700.0])
    x0, eps, step = torch.randn(2, 1, 1, 1).double(), torch.randn(2, 1, 1, 1).double(), 1e-3
    x_t = flow.add_noise(x0, eps, t)
    moved = flow.convert(eps - x0 + step, x_t, t, 'flow_prediction', 'epsilon')
    torch.testing.assert_close((moved - eps).flatten()**2,
                               epsilon_equivalent(flow.snr(t), 'flow_prediction') * step**2, rtol=1e-8, atol=0)


def test_sd3_weights_by_hand():
    s = torch.tensor([0.25, 0.5]).double()
    snr = ((1 - s) / s)**2
    weights = SD3Weight('sigma_sqrt')(snr, 'flow_prediction')
    torch.testing.assert_close(weights.float(), torch.tensor([16.0, 4.0]))
    torch.testing.assert_close(SD3Weight()(snr, 'flow_prediction'), 2 / (torch.pi * (1 - 2 * s + 2 * s**2)))
    with pytest.raises(ValueError, match='rectified flow; this model predicts epsilon'):
        SD3Weight()(snr, 'epsilon')


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

import pytest
import torch

from slimdiff.functional.process import RectifiedFlow, VariancePreserving
from slimdiff.models.backbones.preconditioned import (
    Preconditioning,
    preconditioning_coefficients,
)


def moments(a, s, kind):
    """var(x_t), cov(x_t, target), var(target), from x_t = sqrt(a) x0 + sqrt(1-a) eps and var(x0) = s^2."""
    x_t = torch.stack([a.sqrt() * s, (1 - a).sqrt()])  # coefficients on (x0 / s, eps)
    target = {'epsilon': torch.stack([0 * a, 0 * a + 1]), 'sample': torch.stack([0 * a + s, 0 * a]),
              'v_prediction': torch.stack([-(1 - a).sqrt() * s, a.sqrt()])}[kind]
    return (x_t**2).sum(0), (x_t * target).sum(0), (target**2).sum(0)


@pytest.mark.parametrize('kind', VariancePreserving.prediction_types)
@pytest.mark.parametrize('s', [0.3, 1.0, 2.0])
def test_is_the_linear_regression_of_the_target_on_x_t(kind, s):
    a = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    var_x, cov, var = moments(a, s, kind)
    c_in, c_skip, c_out = preconditioning_coefficients(a, 1 - a, kind, s)
    torch.testing.assert_close(c_in, var_x.rsqrt())
    torch.testing.assert_close(c_skip, cov / var_x)
    torch.testing.assert_close(c_out, (var - cov**2 / var_x).sqrt())


@pytest.mark.parametrize('t', [0.0, 1.0, 250.0, 500.5, 999.0, 1000.0])
@pytest.mark.parametrize('s', [0.3, 1.0])
def test_of_a_flow_is_the_least_squares_fit_on_gaussian_data(s, t):
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.linalg.qr(torch.randn(2000, 2, generator=generator, dtype=torch.float64))[0].T * 2000**0.5
    x0 = s * x0  # exactly uncorrelated, of exactly this variance
    process, t = RectifiedFlow(), torch.tensor([t], dtype=torch.float64)
    x_t = process.add_noise(x0.view(1, 1, 40, 50), eps.view(1, 1, 40, 50), t).flatten()
    target = process.target(x0, eps, t, 'flow_prediction')
    slope = torch.linalg.lstsq(x_t[:, None], target[:, None]).solution.item()
    c_in, c_skip, c_out = (c.item() for c in Preconditioning(process, 'flow_prediction', s)(t))
    assert c_skip == pytest.approx(slope, abs=1e-4)
    assert c_in == pytest.approx((x_t**2).mean().item()**-0.5, rel=1e-4)
    assert c_out == pytest.approx(((target - slope * x_t)**2).mean().item()**0.5, rel=1e-4)


def test_unit_variance_and_epsilon_is_v_prediction():
    a = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    _, c_skip, c_out = preconditioning_coefficients(a, 1 - a, 'epsilon', 1.0)
    torch.testing.assert_close(c_skip, (1 - a).sqrt())  # eps = sqrt(a) v + sqrt(1-a) x_t
    torch.testing.assert_close(c_out, a.sqrt())


def test_epsilon_is_exact_at_the_highest_noise():
    _, c_skip, c_out = preconditioning_coefficients(torch.zeros(1), torch.ones(1), 'epsilon', 0.5)
    assert c_skip.item() == 1 and c_out.item() == 0


def test_float_timesteps_interpolate_and_the_table_survives_bf16():
    a = torch.linspace(0.99, 0.01, 10)
    module = Preconditioning(VariancePreserving(a), 'epsilon', 0.5).to(torch.bfloat16)
    exact = preconditioning_coefficients(a, 1 - a, 'epsilon', 0.5)
    for got, table in zip(module(torch.tensor([0, 2, 9])), exact):
        torch.testing.assert_close(got.flatten(), table[[0, 2, 9]].float())
    for got, table in zip(module(torch.tensor([2.25, 100.0])), exact):
        torch.testing.assert_close(got.flatten(), torch.stack([0.75 * table[2] + 0.25 * table[3], table[9]]).float())
    assert not list(module.state_dict())


@pytest.mark.parametrize('kind, s, message', [('eps', 0.5, "'eps' is unknown"), ('epsilon', 0, 'sigma_data')])
def test_bad_arguments(kind, s, message):
    with pytest.raises(ValueError, match=message):
        preconditioning_coefficients(torch.ones(3), torch.zeros(3), kind, s)

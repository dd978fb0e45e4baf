import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from slimdiff.functional.prediction import PREDICTION_TYPES, check_prediction_type, convert_prediction


@pytest.fixture
def known():
    """x0, eps, v and u of some samples at t = 1, 300, 900, and the x_t they make, by diffusers' scheduler."""
    scheduler = DDPMScheduler()
    t = torch.tensor([1, 300, 900])
    x0, eps = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    alpha = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    values = {'sample': x0, 'epsilon': eps, 'v_prediction': scheduler.get_velocity(x0, eps, t),
              'flow_prediction': eps - x0}
    return values, scheduler.add_noise(x0, eps, t), alpha.sqrt(), (1 - alpha).sqrt()


@pytest.mark.parametrize('source, target', itertools.product(PREDICTION_TYPES, repeat=2))
def test_every_pair_against_diffusers(known, source, target):
    values, x_t, a, b = known
    converted = convert_prediction(values[source], x_t, a, b, source, target)
    torch.testing.assert_close(converted, values[target], rtol=1e-3, atol=1e-3)
    back = convert_prediction(converted, x_t, a, b, target, source)
    torch.testing.assert_close(back, values[source], rtol=1e-3, atol=1e-3)


def test_by_hand():
    # a = .6, b = .8, x0 = 1, eps = 2: x_t = .6 + 1.6 = 2.2, v = .6 * 2 - .8 * 1 = .4 and u = 2 - 1 = 1.
    one = torch.ones(1, 1, 1, 1)
    values = {'sample': one, 'epsilon': 2 * one, 'v_prediction': 0.4 * one, 'flow_prediction': one}
    for source, target in itertools.product(values, repeat=2):
        got = convert_prediction(values[source], 2.2 * one, 0.6 * one, 0.8 * one, source, target)
        torch.testing.assert_close(got, values[target])


def test_unknown_type():
    with pytest.raises(ValueError, match=r"prediction_type 'eps' is unknown; choose one of epsilon, sample, v_pred"):
        check_prediction_type('eps')
    with pytest.raises(ValueError, match="'velocity'"):
        convert_prediction(*[torch.zeros(1)] * 4, 'epsilon', 'velocity')

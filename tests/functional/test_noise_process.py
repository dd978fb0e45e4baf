import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from slimdiff.functional.process import RectifiedFlow, VariancePreserving

SCHEDULER = DDPMScheduler()
VP, FLOW = VariancePreserving(SCHEDULER.alphas_cumprod), RectifiedFlow()
X0, EPS = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_noise_and_targets_of_a_schedule_are_those_of_diffusers():
    t = torch.tensor([0, 10, 500, 999])
    torch.testing.assert_close(VP.add_noise(X0, EPS, t), SCHEDULER.add_noise(X0, EPS, t))
    torch.testing.assert_close(VP.target(X0, EPS, t, 'v_prediction'), SCHEDULER.get_velocity(X0, EPS, t))


def test_noise_of_a_flow_is_that_of_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler()
    t = torch.tensor([1.0, 250.0, 999.0, 1000.0])
    torch.testing.assert_close(FLOW.add_noise(X0, EPS, t), scheduler.scale_noise(X0, t, EPS))
    assert torch.equal(FLOW.add_noise(X0, EPS, t)[3], EPS[3])


@pytest.mark.parametrize('t', [0.0, 333.3, 1000.0])
def test_a_perfect_velocity_leads_to_the_data_and_the_noise(t):
    t = torch.full((4, ), t)
    x_t, v = FLOW.add_noise(X0, EPS, t), FLOW.target(X0, EPS, t, 'flow_prediction')
    for kind, wanted in (('sample', X0), ('epsilon', EPS)):
        torch.testing.assert_close(FLOW.convert(v, x_t, t, 'flow_prediction', kind), wanted, rtol=1e-4, atol=1e-5)


def test_snr_by_hand_and_back():
    a = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    process = VariancePreserving(a)
    torch.testing.assert_close(process.snr(torch.arange(3)), torch.tensor([9.0, 1.0, 0.25], dtype=torch.float64))
    # Half-way between the last two the SNR is their geometric mean, and the powers still add up to 1.
    alpha, sigma = process.levels(torch.tensor([1.5]))
    assert (alpha / sigma).item()**2 == pytest.approx(0.5) and (alpha**2 + sigma**2).item() == pytest.approx(1)
    assert FLOW.snr(torch.tensor([250.0])).item() == pytest.approx(9)
    for one, times in ((VP, torch.tensor([0.0, 3.5, 700.25, 999.0])), (FLOW, torch.tensor([0.5, 123.4, 1000.0]))):
        torch.testing.assert_close(one.timesteps_of(one.snr(times)).float(), times, rtol=1e-4, atol=1e-3)
    beyond = torch.tensor([0.0, 1e9], dtype=torch.float64)
    assert VP.timesteps_of(beyond).tolist() == [999, 0]


def test_a_schedule_that_ends_in_pure_noise_has_a_nearest_timestep():
    process = VariancePreserving(DDPMScheduler(rescale_betas_zero_snr=True).alphas_cumprod.double().clamp(min=0))
    found = process.timesteps_of(torch.tensor([0.0, 1e-30, 1.0], dtype=torch.float64))
    assert found.isfinite().all() and found[0] >= 998 and found[2] < 500


def test_which_noise_levels_one_process_has_of_another():
    # DDPM's schedule ends at SNR 4.04e-5, s = .9937, and begins at 9999, s = .0099.
    assert VP.covers(FLOW) == pytest.approx(0.984, abs=0.002)
    assert FLOW.covers(VP) == 1
    assert VariancePreserving(SCHEDULER.alphas_cumprod[:200]).covers(FLOW) < 0.6


def test_timesteps():
    real = torch.tensor([0.0, 0.9, 999.9, 1000.0], dtype=torch.float64)
    assert VP.timesteps(real).tolist() == [0, 0, 999, 999]
    torch.testing.assert_close(FLOW.timesteps(real), real.float())
    drawn = FLOW.draw_uniform(4000, torch.Generator().manual_seed(0), torch.device('cpu'))
    assert drawn.mean().item() == pytest.approx(500, abs=15) and drawn.std().item() == pytest.approx(289, abs=10)


def test_integer_timesteps_of_a_flow_are_refused():
    with pytest.raises(ValueError, match=r'real numbers in \[0, 1000\], got torch.int64'):
        FLOW.add_noise(X0, EPS, torch.tensor([1, 2, 3, 4]))


def test_between_timesteps_next_to_pure_noise():
    """The power of the signal falls to 0 in a line there, where its logarithm can't be interpolated."""
    process = VariancePreserving(torch.tensor([0.9, 0.5, 0.2, 0.0]))
    found = process.signal(torch.tensor([0.0, 1.0, 2.0, 2.5, 3.0]))
    torch.testing.assert_close(found.float(), torch.tensor([0.9, 0.5, 0.2, 0.1, 0.0]))
    between = process.signal(torch.tensor([0.5])).item()  # log SNR: the mean of log 9 and log 1
    assert between / (1 - between) == pytest.approx(3)

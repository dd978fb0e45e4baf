import pytest
import torch
from diffusers import DDIMScheduler

from slimdiff.sampling import build_scheduler, denoise, guided, image_generators, initial_noise, mix_seed

SCHEDULE = dict(num_train_timesteps=1000, beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195)


def gaussian_denoiser(scheduler, mean, std):
    """The exact eps of data ~ N(mean, std^2): the posterior mean is linear in x_t."""

    def predict(x, t):
        a = scheduler.alphas_cumprod[int(t)].double()
        x0 = mean + a.sqrt() * std**2 / (a * std**2 + 1 - a) * (x - a.sqrt() * mean)
        return (x - a.sqrt() * x0) / (1 - a).sqrt()

    return predict


@pytest.mark.parametrize('name, steps, tolerance', [
    ('DDIMScheduler', 200, 0.03), ('DPMSolverMultistepScheduler', 200, 0.03), ('UniPCMultistepScheduler', 200, 0.03),
    ('DDPMScheduler', 1000, 0.05),
])
def test_an_exact_denoiser_samples_the_gaussian_it_knows(name, steps, tolerance):
    scheduler = build_scheduler(dict(type=name, **SCHEDULE))
    if 'clip_sample' in scheduler.config:
        scheduler.register_to_config(clip_sample=False)
    generators = image_generators(0, range(400))
    noise = initial_noise((1, 4, 4), generators, torch.device('cpu')).double()
    x = denoise(gaussian_denoiser(scheduler, 0.3, 0.5), scheduler, noise, steps, generators)
    assert x.mean().item() == pytest.approx(0.3, abs=0.03)
    assert x.std().item() == pytest.approx(0.5, abs=tolerance)


def test_ddim_equals_the_update_written_out():
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False)
    x = noise = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    scheduler.set_timesteps(5)
    for t in scheduler.timesteps.tolist():
        a, b = scheduler.alphas_cumprod[t].double(), (scheduler.alphas_cumprod[t - 200] if t >= 200 else
                                                      scheduler.final_alpha_cumprod).double()
        eps = torch.sin(x)
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    torch.testing.assert_close(denoise(lambda z, t: torch.sin(z), scheduler, noise, 5), x)


def test_the_scheduler_given_is_left_alone_and_steps_are_reported():
    scheduler = build_scheduler(dict(type='DPMSolverMultistepScheduler', **SCHEDULE))
    steps = []
    denoise(lambda x, t: x, scheduler, torch.randn(1, 1, 2, 2), 7, on_step=lambda: steps.append(1))
    assert len(steps) == 7 and scheduler.num_inference_steps is None


def test_guidance_formula_and_cost():
    calls = []

    def predict(x, t, labels):
        calls.append(x.shape[0])
        return labels.float().view(-1, 1, 1, 1).expand_as(x)

    x = torch.zeros(2, 1, 1, 1)
    out = guided(predict, [torch.tensor([1, 2])], [torch.tensor([10, 10])], 3.0)(x, 0)
    assert out.flatten().tolist() == [10 + 3 * (1 - 10), 10 + 3 * (2 - 10)]
    assert guided(predict, [torch.tensor([1, 2])], [torch.tensor([10, 10])], 1.0)(x, 0).flatten().tolist() == [1, 2]
    assert guided(predict, [torch.tensor([1, 2])], None, 3.0)(x, 0).flatten().tolist() == [1, 2]
    assert calls == [4, 2, 2]


def test_seeds_of_neighbours_are_unrelated():
    noise = initial_noise((1000, ), image_generators(0, range(4)) + image_generators(1, range(4)), torch.device('cpu'))
    correlation = torch.corrcoef(noise) - torch.eye(8)
    assert correlation.abs().max() < 0.13  # 4 standard errors of 1000 draws
    assert len({mix_seed(a, b) for a in range(50) for b in range(50)}) == 2500
    assert mix_seed(1, 2) != mix_seed(2, 1)


@pytest.mark.parametrize('steps', [0, 1001])
def test_step_counts_out_of_range(steps):
    with pytest.raises(ValueError, match=r'num_steps must lie in 1\.\.1000'):
        denoise(lambda x, t: x, DDIMScheduler(**SCHEDULE), torch.zeros(1, 1, 1, 1), steps)

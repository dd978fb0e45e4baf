"""Images of a model: functions of seed and index, guided, and by hand."""

import pytest
import torch
from test_diffusion_model import model

from slimdiff.sampling import image_generators, initial_noise


def test_an_image_is_a_function_of_seed_and_index():
    m = model(num_classes=3)
    together = m.sample(range(5), seed=3)
    assert together.shape == (5, 3, 8, 8) and together.abs().max() <= 1
    apart = torch.cat([m.sample([4, 0], seed=3), m.sample([2], seed=3)])
    torch.testing.assert_close(apart, together[[4, 0, 2]], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(m.sample([0], seed=4), together[:1])


def test_stochastic_samplers_are_reproducible_too():
    m = model(noise=dict(clip_sample=False))
    first = m.sample([3, 1], scheduler=dict(type='DDPMScheduler'))
    torch.testing.assert_close(m.sample([1], scheduler=dict(type='DDPMScheduler')), first[1:], rtol=1e-4, atol=1e-5)


def test_sampling_leaves_the_mode_and_the_global_generator_alone():
    m = model().train()
    state = torch.get_rng_state()
    m.sample([0])
    assert m.training and torch.equal(state, torch.get_rng_state())


def test_guidance_changes_samples_and_one_does_not_double_the_batch():
    m = model(num_classes=3)
    sizes = []
    m.unet.stem.register_forward_hook(lambda mod, args, out: sizes.append(out.shape[0]))
    plain = m.sample([0, 1], guidance_scale=1.0)
    guided = m.sample([0, 1], guidance_scale=4.0)
    assert set(sizes[:4]) == {2} and set(sizes[4:]) == {4}
    assert not torch.allclose(plain, guided)


def test_two_euler_steps_of_a_flow_by_hand():
    m = model(noise_scheduler=dict(type='FlowMatchEulerDiscreteScheduler'), sigma_data=None,
              sampler=dict(type='FlowMatchEulerDiscreteScheduler', shift=3.0))
    x = initial_noise((3, 8, 8), image_generators(0, [0, 1]), torch.device('cpu'))
    with torch.no_grad():
        # The sampler's two levels, 1 and 1/1000, of which the second is shifted to 3 s / (1 + 2 s); then none.
        low = 3 * 0.001 / (1 + 2 * 0.001)
        for level, following in ((1.0, low), (low, 0.0)):
            x = x + (following - level) * m.unet(x, torch.tensor(1000 * level)).sample
    torch.testing.assert_close(m.sample([0, 1], num_steps=2), x.clamp(-1, 1), rtol=1e-3, atol=1e-4)


def test_guidance_that_would_have_no_effect_is_refused():
    m = model(unet=dict(context_channels=6, mid_heads=2, mid_cross_attention=True))
    m.sample([0], context=torch.zeros(1, 2, 6))
    with pytest.raises(ValueError, match='guidance_scale=7.5: .* a context of your own has neither'):
        m.sample([0], context=torch.zeros(1, 2, 6), guidance_scale=7.5)


def test_labels_are_looked_at_before_they_move_to_a_device_where_that_would_wait(monkeypatch):
    m = model(num_classes=3)
    monkeypatch.setattr(type(m), 'device', torch.device('meta'))
    with pytest.raises(ValueError, match=r'Labels must lie in 0\.\.2'):
        m.sample([0, 1], labels=torch.tensor([0, 7]))


def test_a_network_in_half_precision_samples_and_measures_as_it_does_in_full():
    m = model(sigma_data=None)
    full, x, t = m.sample([0, 1]), torch.randn(2, 3, 8, 8), torch.tensor([10, 900])
    expected = m.predict_eps(x, t)
    torch.nn.Module.to(m.unet, torch.bfloat16)
    torch.testing.assert_close(m.sample([0, 1]), full, rtol=0, atol=0.1)
    torch.testing.assert_close(m.predict_eps(x, t).float(), expected, rtol=0.05, atol=0.05)

"""Draws by hand, and that any number of ranks draws alike."""

from types import SimpleNamespace

import pytest
import torch

from slimdiff.functional.process import RectifiedFlow, VariancePreserving
from slimdiff.models.algorithms import draws

CPU = torch.device('cpu')
DISCRETE = VariancePreserving(torch.linspace(0.99, 0.01, 1000))
KL = SimpleNamespace(posterior='sample', downsampling=2, latent_channels=4)


def on_rank(monkeypatch, rank, world):
    monkeypatch.setattr(draws, 'get_world_size', lambda: world)
    monkeypatch.setattr(draws, 'get_rank', lambda: rank)


def test_a_step_is_a_function_of_its_seed():
    t, noise, drop = draws.draw_step(6, (3, 4, 4), DISCRETE, 0.5, 3, CPU)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(t, torch.randint(1000, (6, ), generator=generator))
    assert torch.equal(drop, torch.rand(6, generator=generator) < 0.5)
    assert torch.equal(noise, torch.randn(6, 3, 4, 4, generator=generator))


@pytest.mark.parametrize('world', [2, 3])
def test_ranks_draw_the_parts_of_the_whole(monkeypatch, world):
    whole = draws.draw_step(6, (3, 4, 4), DISCRETE, 0.5, 3, CPU)
    posterior = draws.draw_posterior(KL, torch.zeros(6, 3, 8, 8), 3)
    count = 6 // world
    for rank in range(world):
        on_rank(monkeypatch, rank, world)
        part = slice(rank * count, (rank + 1) * count)
        for mine, all_of_it in zip(draws.draw_step(count, (3, 4, 4), DISCRETE, 0.5, 3, CPU), whole):
            assert torch.equal(mine, all_of_it[part])
        assert torch.equal(draws.draw_posterior(KL, torch.zeros(count, 3, 8, 8), 3), posterior[part])


def test_the_posterior_has_a_seed_of_its_own():
    noise = draws.draw_posterior(KL, torch.zeros(2, 3, 8, 8), 3)
    assert torch.equal(noise, torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3 + 2**32)))


@pytest.mark.parametrize('autoencoder', [SimpleNamespace(), SimpleNamespace(posterior='mode')])
def test_a_first_stage_without_a_posterior_draws_nothing(autoencoder):
    state = torch.get_rng_state()
    assert draws.draw_posterior(autoencoder, torch.zeros(2, 3, 8, 8), None) is None
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_seed_the_global_generator_draws():
    torch.manual_seed(5)
    first = draws.draw_step(2, (1, ), DISCRETE, 0.0, None, CPU)[1]
    again = draws.draw_step(2, (1, ), DISCRETE, 0.0, None, CPU)[1]
    torch.manual_seed(5)
    assert torch.equal(first, draws.draw_step(2, (1, ), DISCRETE, 0.0, None, CPU)[1]) and not torch.equal(first, again)


def test_a_flows_timesteps_are_real_and_uniform():
    t = draws.draw_timesteps(RectifiedFlow(), 4000, torch.Generator().manual_seed(0), CPU)
    assert t.is_floating_point() and t.min() > 0 and t.max() <= 1000
    torch.testing.assert_close(t.sort().values, torch.linspace(0, 1000, 4000), rtol=0, atol=25)


def test_densities_by_their_medians():
    """Half of a logit-normal density lies below sigmoid(mean); the shift moves that level by its formula."""
    for mean, shift in ((0.0, 1.0), (1.0, 1.0), (0.0, 3.0)):
        t = draws.draw_timesteps(RectifiedFlow(), 4001, torch.Generator().manual_seed(0), CPU, 'logit_normal',
                                 logit_mean=mean, shift=shift)
        level = torch.tensor(mean).sigmoid()
        assert t.median().item() == pytest.approx(1000 * (shift * level / (1 + (shift - 1) * level)).item(), abs=20)
    whole = draws.draw_timesteps(DISCRETE, 4000, torch.Generator().manual_seed(0), CPU, 'mode')
    assert whole.dtype == torch.long and whole.max() < 1000
    with pytest.raises(ValueError, match='logit_normal or mode'):
        draws.draw_timesteps(DISCRETE, 4, None, CPU, 'normal')

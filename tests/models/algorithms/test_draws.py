"""Draws by hand, and that any number of ranks draws alike."""

from types import SimpleNamespace

import pytest
import torch

from slimdiff.models.algorithms import draws

CPU = torch.device('cpu')
KL = SimpleNamespace(posterior='sample', downsampling=2, latent_channels=4)


def on_rank(monkeypatch, rank, world):
    monkeypatch.setattr(draws, 'get_world_size', lambda: world)
    monkeypatch.setattr(draws, 'get_rank', lambda: rank)


def test_a_step_is_a_function_of_its_seed():
    t, noise, drop = draws.draw_step(6, (3, 4, 4), 1000, 0.5, 3, CPU)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(t, torch.randint(1000, (6, ), generator=generator))
    assert torch.equal(drop, torch.rand(6, generator=generator) < 0.5)
    assert torch.equal(noise, torch.randn(6, 3, 4, 4, generator=generator))


@pytest.mark.parametrize('world', [2, 3])
def test_ranks_draw_the_parts_of_the_whole(monkeypatch, world):
    whole = draws.draw_step(6, (3, 4, 4), 1000, 0.5, 3, CPU)
    posterior = draws.draw_posterior(KL, torch.zeros(6, 3, 8, 8), 3)
    count = 6 // world
    for rank in range(world):
        on_rank(monkeypatch, rank, world)
        part = slice(rank * count, (rank + 1) * count)
        for mine, all_of_it in zip(draws.draw_step(count, (3, 4, 4), 1000, 0.5, 3, CPU), whole):
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
    first = draws.draw_step(2, (1, ), 10, 0.0, None, CPU)[1]
    again = draws.draw_step(2, (1, ), 10, 0.0, None, CPU)[1]
    torch.manual_seed(5)
    assert torch.equal(first, draws.draw_step(2, (1, ), 10, 0.0, None, CPU)[1]) and not torch.equal(first, again)

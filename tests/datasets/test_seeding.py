import random

import numpy as np
import pytest
import torch

from slimdiff.datasets.seeding import hash64, isolated_random_state, seed32


def splitmix64(state):
    """Steele et al. 2014, in Python's integers."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_hash_is_chained_splitmix64():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the published first output for seed 0
    assert int(hash64(0)[0]) == splitmix64(0)
    for words in [(5,), (1, 2, 3), (-1, 2**62)]:
        state = 0
        for word in words:
            state = splitmix64(state ^ (word % 2**64))
        assert int(hash64(*words)[0]) == state


def test_hash_of_an_array_is_the_hash_of_each():
    many = hash64(3, np.arange(100))
    assert many.tolist() == [int(hash64(3, k)[0]) for k in range(100)]
    assert len(set(many.tolist())) == 100


def test_seed32_is_spread_evenly():
    seeds = np.array([seed32(0, k) for k in range(4096)], dtype=np.float64)
    assert seeds.min() >= 0 and seeds.max() < 2**32
    counts = np.histogram(seeds, bins=16, range=(0, 2**32))[0]
    assert ((counts - 256) ** 2 / 256).sum() < 37.7  # chi-square of 15 degrees of freedom at 0.1 %


def test_isolated_random_state_is_seeded_and_restored():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draw()
    with isolated_random_state(7):
        inside = draw()
    with pytest.raises(KeyError), isolated_random_state(7):
        assert draw() == inside
        raise KeyError
    assert [first, draw()] == undisturbed

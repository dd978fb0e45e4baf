"""Randomness that is a function of (seed, index) and of nothing else.

Data must not depend on who asks for it: not on the worker process, the rank, the batch size or what was drawn
before. So nothing here keeps a state: a crop's place is a hash of its index, and code that draws from the global
generators (mmcv's random transforms do) runs in a bubble where these are seeded and afterwards put back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

_WEYL = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: consecutive integers land far apart


def _finalise(z: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele et al. 2014): every input bit flips half of the output bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash64(*words) -> np.ndarray:
    """Hash words (integers, or integer arrays that broadcast) to uint64 of at least one dimension.

    About 1 us for one value and 10 ns for each further one; equal on every platform. A ``numpy.random.Generator`` for
    each index would cost ten times that.
    """
    state = np.zeros(1, np.uint64)
    for word in words:
        word = np.atleast_1d(np.asarray(word, dtype=np.int64)).view(np.uint64)
        state = _finalise((state ^ word) + _WEYL)
    return state


def seed32(*words: int) -> int:
    """One seed in [0, 2^32) for a generator, hashed from ``words``."""
    return int(hash64(*words)[0] >> np.uint64(32))


@contextlib.contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seed the global generators of ``random``, numpy and torch (CPU) inside the block; restore them after it."""
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would reseed the GPUs as well
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)

"""The denoising loop: a network, a scheduler, noise in, images out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from slimdiff.sampling.process import is_flow

Predict = Callable[[Tensor, Tensor], Tensor]


def image_generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator for each image, a function of (seed, index) alone.

    Batch size, number of ranks and device then do not change the images. The two numbers are mixed with the
    finaliser of SplitMix64, so that neighbouring seeds and indices give unrelated streams.
    """
    return [torch.Generator().manual_seed(mix_seed(seed, int(i))) for i in indices]


def mix_seed(*numbers: int) -> int:
    """Hash integers to one seed in [0, 2**63)."""
    state, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    for number in numbers:
        state = (state ^ (number & mask)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        state ^= state >> 31
    # PyTorch's Mersenne twister is seeded by the low 32 bits only: fold the high ones in.
    return (state ^ state >> 32) & (2**63 - 1)


def initial_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Standard normal noise (len(generators), *shape), each image from its own generator."""
    return torch.stack([torch.randn(*shape, generator=g) for g in generators]).to(device)


def guided(predict: Callable[..., Tensor], conditions: Sequence[Tensor | None],
           null_conditions: Sequence[Tensor | None] | None, guidance_scale: float) -> Predict:
    """Classifier-free guidance (Ho & Salimans 2022): ``u + w (c - u)``, both halves in one forward.

    Args:
        predict: ``predict(x, t, *conditions)``.
        conditions: each (N, ...), or None for one that the network doesn't have.
        null_conditions: the dropped conditions, of the same shapes; None for an unconditional network (no guidance).
        guidance_scale: w; 1 is the plain conditional prediction, and costs one forward of N, not 2N.
    """
    if null_conditions is None or guidance_scale == 1:
        return lambda x, t: predict(x, t, *conditions)
    doubled = [None if c is None else torch.cat([null, c]) for null, c in zip(null_conditions, conditions)]

    def both(x: Tensor, t: Tensor) -> Tensor:
        unconditional, conditional = predict(torch.cat([x, x]), t, *doubled).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return both


def prepared(scheduler: SchedulerMixin, num_steps: int, device: torch.device | str = 'cpu') -> SchedulerMixin:
    """A copy of ``scheduler`` with ``num_steps`` steps set: multi-step state never leaks from one call to the next.

    Raises:
        ValueError: ``num_steps`` out of range; timesteps that rise, or that the network wasn't trained on; steps that
            the scheduler can't take.
    """
    name, limit = type(scheduler).__name__, scheduler.config.get('num_train_timesteps', num_steps)
    if not 1 <= num_steps <= limit:
        raise ValueError(f'num_steps must lie in 1..{limit} (the training timesteps), got {num_steps}.')
    scheduler = copy.deepcopy(scheduler)
    try:
        set_steps(scheduler, num_steps, device)
    except Exception as error:  # each class has its own for what it can't do
        raise ValueError(f'{name}: {num_steps} steps cannot be set: {error}') from error
    timesteps = network_timesteps(scheduler).tolist()
    if timesteps[0] < timesteps[-1]:
        raise ValueError(f'{name}: its timesteps rise, it turns images into noise.')
    last = limit if is_flow(scheduler) else limit - 1
    if not (min(timesteps) >= 0 and max(timesteps) <= last):  # NaN, too
        offset = scheduler.config.get('steps_offset')
        raise ValueError(f'{name}: {num_steps} steps go from timestep {timesteps[0]:g} to {timesteps[-1]:g}, but the '
                         f'network is trained on 0..{last}. Ask for fewer steps, or '
                         f'{f"set steps_offset=0 (now {offset})" if offset else "change the settings"}.')
    key = (type(scheduler), str(scheduler.config), num_steps)
    if key not in _TRIALS:
        _TRIALS[key] = _trouble(scheduler, num_steps)
    if _TRIALS[key]:
        raise ValueError(f'{name}: {_TRIALS[key]}')
    return scheduler


#: what came of trials: (class, config, steps) -> trouble or None
_TRIALS: dict[tuple[type, str, int], str | None] = {}


def _trial(scheduler: SchedulerMixin, num_steps: int, start: float = 1.0, eta: float | None = None) -> Tensor:
    """What the steps make of a single number, with a prediction of 0."""
    scheduler = copy.deepcopy(scheduler)
    set_steps(scheduler, num_steps)
    x = first_input(scheduler, torch.full((1, 1, 1, 1), start))
    options = step_options(scheduler, [torch.Generator().manual_seed(0)], eta)
    for t in scheduler.timesteps:
        scaled(scheduler, x, t)
        x = scheduler.step(torch.zeros_like(x), t, x, **options, return_dict=False)[0]
    return x


def set_steps(scheduler: SchedulerMixin, num_steps: int, device: torch.device | str = 'cpu') -> None:
    """``set_timesteps``, at the noise levels that :func:`~slimdiff.sampling.build_scheduler` was given, if any."""
    sigmas, timesteps = scheduler.config.get('_sigmas'), scheduler.config.get('_timesteps')
    given = sigmas or timesteps
    if not given:
        scheduler.set_timesteps(num_steps, device=device)
    elif len(given) != num_steps:
        raise ValueError(f'it has {len(given)} {"sigmas" if sigmas else "timesteps"}: set num_steps={len(given)}')
    elif sigmas:
        scheduler.set_timesteps(sigmas=np.array(sigmas), device=device)
    else:
        scheduler.set_timesteps(timesteps=list(timesteps), device=device)
    if is_flow(scheduler):
        # It would look the first timestep up, and of two that its rounding has made equal take the second.
        scheduler.set_begin_index(0)


def first_input(scheduler: SchedulerMixin, noise: Tensor) -> Tensor:
    """What sampling begins with; samplers of flow matching begin with the noise itself."""
    return noise * getattr(scheduler, 'init_noise_sigma', 1.0)


def timesteps_of(scheduler: SchedulerMixin, num_steps: int) -> list[float]:
    """What the network is told in a sampling, the noisiest first."""
    return [float(t) for t in network_timesteps(prepared(scheduler, num_steps))]


def scaled(scheduler: SchedulerMixin, x: Tensor, t: Tensor) -> Tensor:
    """The network's input; samplers of flow matching scale nothing, and have no method for it."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, 'scale_model_input') else x


def network_timesteps(scheduler: SchedulerMixin) -> Tensor:
    """What the network is told at each step: the timesteps, or of a flow the noise levels that some samplers round to
    whole timesteps."""
    timesteps = scheduler.timesteps
    if not is_flow(scheduler) or timesteps.is_floating_point():
        return timesteps
    levels = scheduler.sigmas[:len(timesteps)].to(timesteps.device)
    return (levels * scheduler.config.num_train_timesteps).float()


def _trouble(scheduler: SchedulerMixin, num_steps: int) -> str | None:
    """What keeps ``scheduler`` from taking its steps, found by taking them with next to nothing."""
    try:
        finite = bool(_trial(scheduler, num_steps).isfinite().all())
    except Exception as error:  # each class has its own for what it can't do
        return f'{error} ({type(error).__name__} in a trial of {num_steps} steps)'
    return None if finite else f'{num_steps} steps give NaN or infinity. Ask for another number, or another scheduler.'


def eta_of(scheduler: SchedulerMixin) -> float:
    """The ``eta`` that :func:`~slimdiff.sampling.build_scheduler` was given. diffusers takes it in each step, not in
    the config; under a private name there it goes into saved folders and comes back."""
    return scheduler.config.get('_eta', 0.0)


def takes_eta(scheduler: SchedulerMixin) -> bool:
    """Whether ``eta`` changes the steps of ``scheduler``: some have it in the signature alone."""
    return 'eta' in inspect.signature(scheduler.step).parameters and \
        not torch.equal(_trial(scheduler, 2, 0.0, 0.0), _trial(scheduler, 2, 0.0, 1.0))


def step_options(scheduler: SchedulerMixin, generators: Sequence[torch.Generator] | None,
                 eta: float | None = None) -> dict[str, Any]:
    """Of ``generator`` and ``eta`` (by default the scheduler's own), what the ``step`` of this scheduler takes."""
    parameters = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {}
    if 'generator' in parameters and generators is not None:
        options['generator'] = list(generators)
    if 'eta' in parameters:
        options['eta'] = eta_of(scheduler) if eta is None else eta
    return options


@torch.no_grad()
def denoise(predict: Predict,
            scheduler: SchedulerMixin,
            noise: Tensor,
            num_steps: int,
            generators: Sequence[torch.Generator] | None = None,
            on_step: Callable[[], None] | None = None) -> Tensor:
    """Run ``num_steps`` steps of ``scheduler`` from ``noise`` (N, C, H, W) to clean samples.

    Args:
        predict: ``predict(x_t, t)``, t a scalar tensor (a float of a flow); in the scheduler's prediction type.
        scheduler: any of diffusers'; it is copied.
        num_steps: at most the scheduler's training timesteps.
        generators: one for each image, for stochastic samplers.
        on_step: called after every step (progress bars).

    Raises:
        ValueError: as :func:`prepared`.
    """
    scheduler = prepared(scheduler, num_steps, noise.device)
    extra = step_options(scheduler, generators)
    x = first_input(scheduler, noise)
    for t, told in zip(scheduler.timesteps, network_timesteps(scheduler)):
        prediction = predict(scaled(scheduler, x, t), told)
        x = scheduler.step(prediction, t, x, **extra, return_dict=False)[0]
        if on_step is not None:
            on_step()
    return x

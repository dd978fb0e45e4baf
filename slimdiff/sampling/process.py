"""The noise process that a network was trained with, as plain data.

A scheduler of diffusers says it only in part, and each class has its own defaults for the rest. Here it is a dict of
``prediction_type`` and ``schedule``: keys of :data:`SCHEDULE_KEYS` with which diffusers' ``DDPMScheduler`` has the very
``alphas_cumprod``, or ``dict(process='rectified_flow', num_train_timesteps=1000)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch import Tensor

from slimdiff.functional.prediction import check_prediction_type
from slimdiff.functional.process import NoiseProcess, RectifiedFlow, VariancePreserving

#: ``schedule['process']`` of rectified flow; a schedule without the key is variance-preserving
FLOW = RectifiedFlow.name

#: what of a scheduler's config decides its alphas_cumprod
SCHEDULE_KEYS = ('num_train_timesteps', 'beta_schedule', 'beta_start', 'beta_end', 'trained_betas',
                 'rescale_betas_zero_snr')


def is_flow(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler of diffusers is for rectified flow."""
    if type(scheduler).__name__.startswith('FlowMatch'):
        return True
    return bool(scheduler.config.get('use_flow_sigmas')) and hasattr(scheduler, 'alphas_cumprod')


def process_of(scheduler: SchedulerMixin) -> dict[str, Any]:
    """The process of a network that is trained with ``scheduler``: rectified flow, or its ``alphas_cumprod`` and
    ``prediction_type``.

    Raises:
        ValueError: a scheduler with neither.
    """
    config = scheduler.config
    if is_flow(scheduler):
        return {'schedule': {'process': FLOW, 'num_train_timesteps': config['num_train_timesteps']},
                'prediction_type': 'flow_prediction'}
    alphas = getattr(scheduler, 'alphas_cumprod', None)
    if not isinstance(alphas, Tensor):
        raise ValueError(f'{type(scheduler).__name__} has no discrete noise schedule (alphas_cumprod); train with one '
                         'that has, such as DDPMScheduler, or by flow matching with FlowMatchEulerDiscreteScheduler.')
    schedule = {key: config[key] for key in SCHEDULE_KEYS if config.get(key) is not None}
    if 'trained_betas' in schedule:
        schedule['trained_betas'] = [float(beta) for beta in schedule['trained_betas']]
    try:
        same = same_alphas(alphas_of(schedule), alphas)
    except ValueError:  # a beta_schedule that DDPMScheduler lacks
        same = False
    if not same:
        schedule = {'num_train_timesteps': len(alphas), 'trained_betas': betas_of(alphas)}
    # Classes without the setting know eps alone.
    kind = check_prediction_type(config.get('prediction_type') or 'epsilon')
    if kind not in VariancePreserving.prediction_types:
        allowed = ', '.join(VariancePreserving.prediction_types)
        raise ValueError(f"prediction_type '{kind}' is for rectified flow, and {type(scheduler).__name__} has a "
                         f'variance-preserving schedule: choose one of {allowed}, or train with '
                         'FlowMatchEulerDiscreteScheduler.')
    return {'schedule': schedule, 'prediction_type': kind}


def noise_process(schedule: Mapping[str, Any]) -> NoiseProcess:
    """The process that a record's ``schedule`` describes.

    Raises:
        ValueError: it describes none.
    """
    if schedule.get('process') == FLOW:
        return RectifiedFlow(schedule.get('num_train_timesteps', 1000))
    return VariancePreserving(alphas_of(schedule))


def same_process(one: NoiseProcess, other: NoiseProcess) -> bool:
    """Whether two processes have the same noise at every timestep."""
    if (one.name, one.num_train_timesteps) != (other.name, other.num_train_timesteps):
        return False
    t = one.timesteps(torch.arange(one.num_train_timesteps, dtype=torch.float64))
    return all(same_alphas(a**2, b**2) for a, b in zip(one.levels(t), other.levels(t)))


def training_config(process: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a scheduler to train with by a process of :func:`process_of`."""
    schedule = dict(process['schedule'])
    if schedule.pop('process', None) == FLOW:
        return dict(type='FlowMatchEulerDiscreteScheduler', **schedule)
    return dict(type='DDPMScheduler', **schedule, prediction_type=process['prediction_type'])


def alphas_of(schedule: Mapping[str, Any]) -> Tensor:
    """``alphas_cumprod`` (T,), float64, of a process's ``schedule``.

    Raises:
        ValueError: what diffusers cannot make a schedule of.
    """
    try:
        return DDPMScheduler(**schedule).alphas_cumprod.double()
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f'{dict(schedule)} is not a noise schedule: {error}') from error


def betas_of(alphas: Tensor) -> list[float]:
    """The betas of which ``alphas`` (T,) are the products."""
    alphas = alphas.double()
    return (1 - alphas / torch.cat([torch.ones_like(alphas[:1]), alphas[:-1]])).tolist()


def same_alphas(one: Tensor, other: Tensor) -> bool:
    """Whether two schedules differ by no more than float32 rounds."""
    return len(one) == len(other) and torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-6)

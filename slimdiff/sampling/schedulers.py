"""Schedulers of diffusers under their own names, and the one builder of samplers.

diffusers' ``Scheduler.from_config`` drops what was a default of the other class, its samplers assume different noise
processes, and none of them compares. A sampler that is built here has the noise schedule and the prediction type that
the network was trained with, whatever its class has for defaults, or is refused before anything runs.
"""

from __future__ import annotations

import functools
import inspect
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers.schedulers
from diffusers import SchedulerMixin
from torch import Tensor

from slimdiff.arguments import accepted_arguments, check_arguments, plain
from slimdiff.registry import SCHEDULERS, RegistryError, check_kind, suggest
from slimdiff.sampling.denoise import eta_of, prepared, takes_eta
from slimdiff.sampling.process import SCHEDULE_KEYS, alphas_of, betas_of, is_flow, process_of, same_alphas
from slimdiff.spelling import nearest

#: settings of the config's own sampler that one of another class keeps; one of the same class keeps all
SHARED = ('timestep_spacing', 'steps_offset', 'set_alpha_to_one', 'final_sigmas_type', 'use_karras_sigmas',
          'use_exponential_sigmas', 'use_beta_sigmas', 'clip_sample', 'clip_sample_range', 'thresholding',
          'dynamic_thresholding_ratio', 'sample_max_value')
#: arguments that bend the schedule which a class is given -> the value that doesn't
UNBENT = {'snr_shift_scale': 1.0}
#: what a class must take for a network trained on a discrete variance-preserving schedule
NEEDED = ('beta_schedule', 'trained_betas', 'prediction_type')
#: classes that take all that and run, and whose samples still aren't those of the network -> why
CONSISTENCY = 'it samples networks that were distilled to consistency models, of others it narrows the distribution'
EXCEPTIONS = {'LCMScheduler': CONSISTENCY, 'FlowMatchLCMScheduler': CONSISTENCY,
              'DPMSolverMultistepInverseScheduler': 'it turns images into noise'}
#: what makes a class that also knows other processes a sampler of rectified flow
FLOW_ARGUMENTS = {'use_flow_sigmas': True, 'prediction_type': 'flow_prediction'}
#: the shift of a flow's noise levels towards the noise (Esser et al. 2024, Eq. 23), by its names in diffusers
SHIFTS = ('shift', 'flow_shift')
#: what an error offers besides the names that are near
USUAL = ('DDIMScheduler', 'FlowMatchEulerDiscreteScheduler', 'DPMSolverMultistepScheduler')
#: steps of the trial that a class is put to
TRIAL = 4


class SchedulerClasses(UserDict):
    """Name -> class, imported when it is asked for: most of diffusers' schedulers import ``scipy.stats``, a second."""

    def __init__(self) -> None:
        module = vars(diffusers.schedulers)
        # In place of a class whose dependency is missing, diffusers has a placeholder, there from the beginning.
        super().__init__({name: None for name in dir(diffusers.schedulers)
                          if name.endswith('Scheduler') and (name not in module or is_scheduler(module[name]))})

    def __getitem__(self, name: str) -> type[SchedulerMixin]:
        if self.data[name] is None:
            self.data[name] = getattr(diffusers.schedulers, name, None)
        if not is_scheduler(self.data[name]):  # diffusers lists some that are gone
            raise KeyError(name)
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        try:
            return self[name] is not None
        except KeyError:
            return False


def is_scheduler(cls: Any) -> bool:
    """Whether this is a class of diffusers' schedulers."""
    return inspect.isclass(cls) and issubclass(cls, SchedulerMixin)


SCHEDULERS._module_dict = SchedulerClasses()


def build_scheduler(cfg: Mapping[str, Any] | SchedulerMixin, base: SchedulerMixin | None = None,
                    clip: bool = True) -> SchedulerMixin:
    """Build the scheduler that a network is trained with, or from that (``base``) one that samples the network.

    Args:
        cfg: ``dict(type='DDIMScheduler', ...)``, or a scheduler. Of a sampler also ``eta``, the noise of DDIM (0 is
            deterministic, 1 like DDPM), and the noise levels of the steps: of a flow as ``sigmas``, which no shift
            changes, of either process as ``timesteps``; without ``type``, it is one of the class of ``base``, at its
            noise levels.
        base: what says the noise schedule and the prediction type: the scheduler that the network is trained with or
            a sampler that was built from it. Settings that were made there hold, too, where the class has them.
        clip: whether the class's default decides on ``clip_sample``, the clipping of x0 at +-1 in each step. False,
            for latents: only if ``cfg`` or ``base`` says so.

    Raises:
        RegistryError: a name that diffusers lacks, or an argument that the scheduler does not take.
        ValueError: a scheduler that doesn't fit the network, an ``eta``, ``sigmas`` or ``timesteps`` that it has no use
            for, or levels that don't fall.
    """
    if isinstance(cfg, SchedulerMixin):
        return cfg if base is None else check_sampler(cfg, process_of(base))
    args = plain(cfg)
    name = args.pop('type', None if base is None else type(base).__name__)
    cls = SCHEDULERS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise RegistryError(f"diffusers {diffusers.__version__} has no scheduler '{name}'."
                            f"{suggest('scheduler', str(name), SCHEDULERS.module_dict)}")
    check_kind(cls, SchedulerMixin, 'scheduler')
    if base is None:
        check_arguments(cls, args)
        return _built(cls, args)
    eta, sigmas, timesteps = (args.pop(key, None) for key in ('eta', 'sigmas', 'timesteps'))
    check_arguments(cls, args)
    process = process_of(base)
    _check_class(cls, process['prediction_type'])
    if sigmas is not None and timesteps is not None:
        raise ValueError(f'{name}: sigmas and timesteps say the same, the noise levels of the steps: give one of them.')
    if 'type' not in cfg and sigmas is None and timesteps is None:
        sigmas, timesteps = base.config.get('_sigmas'), base.config.get('_timesteps')
    if is_flow(base):
        if timesteps is not None:
            sigmas = [t / base.config.num_train_timesteps for t in timesteps]
        return _flow_sampler(cls, args, eta, sigmas, base)
    if sigmas is not None:
        raise ValueError(f'{name}: sigmas are the noise levels of flow matching, but the network is trained on a '
                         'variance-preserving schedule: leave them out.')
    trained = {**process['schedule'], 'prediction_type': process['prediction_type']}
    for key in (*SCHEDULE_KEYS, 'prediction_type'):
        if args.get(key) and args[key] != trained.get(key):
            raise ValueError(f'The sampler has {key}={args[key]}, but the network is trained with {trained.get(key)}: '
                             'leave it out of the sampler.')
    kept = _settings_of(base, None if type(base) is cls else SHARED)
    given = ({} if clip else {'clip_sample': False}) | kept | UNBENT | trained | args
    takes = accepted_arguments(cls)
    scheduler = _on_schedule(cls, {k: v for k, v in given.items() if takes is None or k in takes}, base.alphas_cumprod)
    # As diffusers does: what this class doesn't take, one that is built from it may.
    others = {k: v for k, v in given.items() if k in SHARED and k not in scheduler.config}
    scheduler.register_to_config(**others)
    check_sampler(scheduler, process)
    _set_eta(scheduler, eta, eta_of(base))
    if timesteps is not None:
        _set_timesteps(scheduler, timesteps)
    return scheduler


def check_sampler(scheduler: SchedulerMixin, process: Mapping[str, Any]) -> SchedulerMixin:
    """Return ``scheduler`` if it samples a network that was trained with ``process``.

    Raises:
        ValueError: it is of a class that doesn't fit, or has another schedule or prediction type.
    """
    name, kind = type(scheduler).__name__, process['prediction_type']
    _check_class(type(scheduler), kind)
    if kind == 'flow_prediction':
        total, config = process['schedule']['num_train_timesteps'], scheduler.config
        if config.get('use_dynamic_shifting'):
            raise ValueError(f'{name}: use_dynamic_shifting needs a mu for each image size, which slimdiff does not '
                             'pass on: set use_dynamic_shifting=False and shift (or flow_shift) to exp(mu), which is '
                             'the same.')
        if config.get('stochastic_sampling'):
            raise ValueError(f'{name} with stochastic_sampling=True cannot sample this network: {CONSISTENCY}.')
        if not is_flow(scheduler) or scheduler.config.num_train_timesteps != total:
            raise ValueError(f'{name} is not set to the noise levels of a flow of {total} timesteps, which the network '
                             "is trained on. Build it by slimdiff.sampling.build_scheduler(dict(type=...), base=the "
                             "network's own scheduler).")
        return scheduler
    advice = "Build it by slimdiff.sampling.build_scheduler(dict(type=...), base=the network's own scheduler)."
    if scheduler.config.prediction_type != kind:
        raise ValueError(f'{name} has prediction_type={scheduler.config.prediction_type}, but the network is trained '
                         f'with {kind}. {advice}')
    if not same_alphas(scheduler.alphas_cumprod, alphas_of(process['schedule'])):
        raise ValueError(f'{name} has another noise schedule (alphas_cumprod) than the network is trained with. '
                         f'{advice}')
    if scheduler.config.get('use_flow_sigmas'):
        raise ValueError(f'{name} has use_flow_sigmas=True, the noise levels of flow matching, but the network is '
                         'trained on a variance-preserving schedule: leave it out.')
    return scheduler


@functools.cache
def misfit(cls: type[SchedulerMixin], prediction_type: str = 'epsilon') -> str | None:
    """Why ``cls`` can't sample a network trained on a discrete variance-preserving schedule; None if it can."""
    if cls.__name__ in EXCEPTIONS:
        return EXCEPTIONS[cls.__name__]
    takes = accepted_arguments(cls)
    if prediction_type == 'flow_prediction':
        own = cls.__name__.startswith('FlowMatch')
        if not own and takes is not None and 'use_flow_sigmas' not in takes:
            return 'it takes no use_flow_sigmas: it is for another noise process'
        try:
            prepared(_built(cls, {} if own else FLOW_ARGUMENTS), TRIAL)
        except ValueError as error:
            return str(error).removeprefix(f'{cls.__name__}: ').rstrip('.')
        return None
    missing = [key for key in NEEDED if takes is not None and key not in takes]
    if missing:
        return f'it takes no {", ".join(missing)}: it is for another noise process'
    extra = [name for name, p in inspect.signature(cls.step).parameters.items() if p.default is p.empty
             and p.kind is p.POSITIONAL_OR_KEYWORD and name not in ('self', 'model_output', 'timestep', 'sample')]
    if extra:
        return f'its step needs {", ".join(extra)}'
    # A short schedule: some classes set all its steps when they are made, one by one.
    schedule = {'num_train_timesteps': 100, 'beta_schedule': 'linear', 'beta_start': 1e-3, 'beta_end': 0.2}
    given = UNBENT | schedule | {'prediction_type': prediction_type}
    given = {k: v for k, v in given.items() if takes is None or k in takes}
    try:
        prepared(_on_schedule(cls, given, alphas_of(schedule)), TRIAL)
    except ValueError as error:
        return str(error).removeprefix(f'{cls.__name__}: ').rstrip('.')
    return None


def sampler_names(prediction_type: str = 'epsilon') -> list[str]:
    """Names of all schedulers that sample a network of this prediction type."""
    return sorted(name for name, cls in SCHEDULERS.module_dict.items() if misfit(cls, prediction_type) is None)


def _flow_sampler(cls: type[SchedulerMixin], args: dict[str, Any], eta: float | None, sigmas: Sequence[float] | None,
                  base: SchedulerMixin) -> SchedulerMixin:
    """A sampler of rectified flow, with the shift that was set in ``base`` unless ``args`` has one."""
    takes = accepted_arguments(cls) or frozenset()
    kept = _settings_of(base, None if type(base) is cls else SHARED)
    shift = next((base.config[key] for key in SHIFTS if base.config.get(key, 1.0) != 1.0), 1.0)
    given = {**kept, **{key: shift for key in SHIFTS}, **FLOW_ARGUMENTS,
             'num_train_timesteps': base.config.num_train_timesteps, **args}
    if sigmas is not None:
        given |= dict.fromkeys(SHIFTS, 1.0)
    scheduler = _built(cls, {key: value for key, value in given.items() if key in takes})
    check_sampler(scheduler, process_of(base))
    _set_eta(scheduler, eta, eta_of(base))
    if sigmas is not None:
        _set_sigmas(scheduler, sigmas)
    return scheduler


def _set_sigmas(scheduler: SchedulerMixin, sigmas: Sequence[float]) -> None:
    """Write down the noise levels of the steps."""
    name, sigmas = type(scheduler).__name__, [float(sigma) for sigma in sigmas]
    if 'sigmas' not in inspect.signature(scheduler.set_timesteps).parameters:
        raise ValueError(f'{name} takes no sigmas; FlowMatchEulerDiscreteScheduler and UniPCMultistepScheduler do. '
                         'Leave them out.')
    if not sigmas or sigmas != sorted(set(sigmas), reverse=True) or sigmas[-1] <= 0 or sigmas[0] > 1:
        raise ValueError(f'{name}: sigmas={sigmas} must fall, from at most 1 (pure noise) to above 0; the end at 0 is '
                         'added.')
    scheduler.register_to_config(_sigmas=sigmas)


def _set_timesteps(scheduler: SchedulerMixin, timesteps: Sequence[float]) -> None:
    """Write down the timesteps of the steps of a diffusion."""
    name, last = type(scheduler).__name__, scheduler.config.num_train_timesteps - 1
    whole = [int(t) for t in timesteps]
    if whole != list(timesteps) or not whole or whole != sorted(set(whole), reverse=True) or not (
            whole[-1] >= 0 and whole[0] <= last):
        raise ValueError(f'{name}: timesteps={list(timesteps)} must be whole and fall, from at most {last} to 0 or '
                         'above.')
    scheduler.register_to_config(_timesteps=whole)
    try:
        taken = prepared(scheduler, len(whole)).timesteps.tolist()
    except ValueError as error:
        taken = error
    if taken != whole:
        raise ValueError(f'{name} cannot take given timesteps ({taken}). DPMSolverMultistepScheduler, '
                         'EulerDiscreteScheduler and DDPMScheduler can.')


def _check_class(cls: type[SchedulerMixin], prediction_type: str) -> None:
    why = misfit(cls, prediction_type)
    if why is None:
        return
    names = {name.removesuffix('Scheduler'): name for name in sampler_names(prediction_type)}
    near = [names[key] for key in nearest(cls.__name__.removesuffix('Scheduler'), names, n=2)]
    usual = [name for name in USUAL if name in names.values() and name not in near]
    process = 'rectified flow' if prediction_type == 'flow_prediction' else 'discrete variance-preserving schedule'
    raise ValueError(f'{cls.__name__} cannot sample this network ({process}, {prediction_type}): {why}. Schedulers '
                     f'that can: {", ".join(near + usual)}.')


def _built(cls: type[SchedulerMixin], args: Mapping[str, Any]) -> SchedulerMixin:
    try:
        return cls(**args)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(f'{cls.__name__}: {error}') from error


def _on_schedule(cls: type[SchedulerMixin], args: dict[str, Any], alphas: Tensor) -> SchedulerMixin:
    """``cls(**args)``, whose schedule is ``alphas``: by its name or, if the class doesn't know that, by its betas."""
    by_value = {**args, 'trained_betas': betas_of(alphas)}
    if 'rescale_betas_zero_snr' in args:
        by_value['rescale_betas_zero_snr'] = False
    problem = None
    for given in (args, by_value):
        try:
            scheduler = _built(cls, given)
        except ValueError as error:
            problem = error
            continue
        if same_alphas(getattr(scheduler, 'alphas_cumprod', alphas[:0]), alphas):
            return scheduler
    raise problem or ValueError(f'{cls.__name__}: its noise levels (alphas_cumprod) are not those that the network is '
                                'trained on, though it is given these.')


def _settings_of(scheduler: SchedulerMixin, names: tuple[str, ...] | None) -> dict[str, Any]:
    """What was set, of these names (None: of all), and isn't just a default of its class."""
    config = scheduler.config
    defaults = set(config.get('_use_default_values', ()))
    if '_diffusers_version' in config:  # it comes from a file, where the defaults are, too
        known = inspect.signature(type(scheduler)).parameters
        defaults |= {key for key, value in config.items() if key in known and known[key].default == value}
    return {key: value for key, value in config.items() if not key.startswith('_') and key not in defaults
            and (names is None or key in names)}


def _set_eta(scheduler: SchedulerMixin, eta: float | None, inherited: float) -> None:
    """Write down ``eta``, or that of the config's own sampler if this one takes any."""
    if eta is not None and (isinstance(eta, bool) or not isinstance(eta, (int, float)) or not 0 <= eta <= 1):
        raise ValueError(f'eta must lie in [0, 1] (0: deterministic DDIM, 1: as noisy as DDPM), got {eta!r}.')
    wanted = float(inherited if eta is None else eta)
    if wanted and takes_eta(scheduler):
        scheduler.register_to_config(_eta=wanted)
    elif eta:
        raise ValueError(f'{type(scheduler).__name__} has no eta; DDIMScheduler has. Leave eta out.')

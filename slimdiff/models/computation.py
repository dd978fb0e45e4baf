"""What a network computes: one record that travels with its weights, and one comparison of two of them.

Names and shapes of weights leave much of a network's function open: the noise process and the prediction that it was
trained for, its preconditioning, the order of sinusoids, the number of heads, the latents that it knows. The record
holds these as plain data. It lies in ``meta`` of every ``.pth`` and as ``_computes`` in ``unet/config.json`` of an
exported folder; where it is missing (older files, folders of diffusers), it is read from what is there. A key that is
missing is unknown, and unknown values are not compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffusers import SchedulerMixin
from torch import Tensor, nn

from slimdiff.arguments import check_arguments, plain
from slimdiff.checkpoint import read_json
from slimdiff.models.autoencoders import loading
from slimdiff.models.backbones.protocol import bare
from slimdiff.models.backbones.unet.stages import Stage
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS, RESAMPLERS, SCHEDULERS, building
from slimdiff.sampling.process import SCHEDULE_KEYS, is_flow, noise_process, process_of, same_process, training_config
from slimdiff.sampling.schedulers import build_scheduler

#: the key of the record in a network's config
RECORD = '_computes'
#: relative difference up to which two numbers are the same (scales are copied with few digits)
TOLERANCE = 1e-3
#: of the norms of a first stage's weights, which half precision rounds
ENCODER_TOLERANCE = 1e-4
#: arguments of a network that leave its function as it is, that the shapes of its weights tell, or recorded elsewhere
NEUTRAL = {'type', 'sample_size', 'dropout', 'preconditioning', 'num_classes', 'num_class_embeds',
           'network_class', 'widths', 'depths', 'in_channels', 'out_channels',
           'mid_channels', 'embedding_channels', 'time_channels', 'context_channels'}
#: of a network, what another width or depth changes
BY_WIDTH = {'stages', 'mid_heads', 'norm_groups', 'num_attention_heads', 'layers', 'block_order'}


class ComputationError(ValueError):
    """Weights under a config that computes something else with them than they were trained for."""


# ---- the record ---------------------------------------------------------------------------------------------------


def of_model(model: Any) -> dict[str, Any]:
    """The record of a :class:`~slimdiff.models.algorithms.DiffusionModel`; {} of what isn't one."""
    needed = ('noise_scheduler', 'prediction_type', 'num_classes', 'autoencoder', 'unet')
    if not all(hasattr(model, name) for name in needed) or not isinstance(getattr(model.unet, 'config', None), Mapping):
        return {}
    return {
        **process_of(model.noise_scheduler), **_of_network(model.unet.config, type(bare(model.unet))),
        'num_classes': model.num_classes, 'first_stage': _of_first_stage(model.autoencoder)}


def of_checkpoint(checkpoint: Mapping[str, Any], source: Any) -> dict[str, Any]:
    """The record of a ``.pth``: its own, or for an older one what the config in it says."""
    meta = checkpoint.get('meta') or {}
    config = (meta.get('config') or {}).get('model')
    if 'computes' in meta:
        return _as_record(meta['computes'], source)
    with building(f'The config in {source}', TypeError, AttributeError):
        return _of_config(config) if config else {}


def of_folder(folder: Path, network: Path, scheduler: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record of a folder of ``export`` or ``save_pretrained``.

    Args:
        folder: of the pipeline, or of the network alone.
        network: the folder with the network's ``config.json``.
        scheduler: what is said of the noise process in addition to the folder.

    Raises:
        ValueError: a noise process that slimdiff does not know.
    """
    config = read_json(network / 'config.json', 'Export or save the network again.')
    known = _as_record(config.get(RECORD) or {}, network / 'config.json')
    kind = MODELS.get(config.get('network_class', config.get('_class_name')))
    if not known:
        known = _of_network(config, kind) if kind else {}
        given = config.get('preconditioning') or {}
        said = given.get('schedule') and _scheduler_words(given)
        said = said or _scheduler_config(folder, network)
        known |= _of_scheduler(said, folder) if said else {}
        if kind and 'num_classes' in config:
            known['num_classes'] = config['num_classes']
        stage = loading.describe_folder(folder)
        known |= {'first_stage': stage} if stage else {}
    if scheduler:
        said = _scheduler_words({'schedule': {}, 'prediction_type': 'epsilon', **known})
        if scheduler.keys() & {'beta_schedule', 'beta_start', 'beta_end'}:
            said.pop('trained_betas', None)  # which would go first
        said = {**said, **scheduler}
        if inspect.isclass(kind := SCHEDULERS.get(said['_class_name'])):
            check_arguments(kind, [key for key in scheduler if not key.startswith('_')])
        known |= _of_scheduler(said, folder)
    if config.get('_networks'):  # networks of several widths without the full one
        known['network'] = {key: value for key, value in known.get('network', {}).items() if key not in BY_WIDTH}
    return known


def _of_network(config: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Arguments of a network with the defaults of its class, and its preconditioning."""
    whole = {**defaults_of(kind.__init__), **{key: value for key, value in config.items() if not key.startswith('_')}}
    neutral = NEUTRAL - set(getattr(kind, 'computes_with', ()))
    network = json_data({key: value for key, value in whole.items() if key not in neutral})
    with contextlib.suppress(KeyError, TypeError, ValueError):  # stages of our UNets; a network of a user's has its own
        network['stages'] = [dataclasses.asdict(Stage.parse(f'down{i}', stage))
                             for i, stage in enumerate(network['stages'], 1)]
    for key in ('downsampler', 'upsampler'):
        resampler = isinstance(network.get(key), dict) and RESAMPLERS.get(network[key].get('type'))
        if resampler:
            network[key] = json_data(defaults_of(resampler)) | network[key]
    sigma = (whole.get('preconditioning') or {}).get('sigma_data')
    return {'sigma_data': sigma, 'network': network}


def defaults_of(function: Any) -> dict[str, Any]:
    """The arguments that have a default, with it."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.default is not p.empty}


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's config says, with the defaults of its class. Nothing is built but the noise scheduler."""
    kind = MODELS.get(config.get('type'))
    if kind is None:
        return {}
    config = serving_config(config)
    whole = {**defaults_of(kind), **config}
    unet, noise, known = dict(whole.get('unet') or {}), plain(whole.get('noise_scheduler') or {}), {}
    network = MODELS.get(unet.get('type'))
    if network is not None:
        known |= _of_network(unet, network)
        if 'preconditioning' not in unet:
            known['sigma_data'] = whole.get('sigma_data')
    if SCHEDULERS.get(noise.get('type')) is not None:
        known |= process_of(build_scheduler(noise))
    return known | {'num_classes': whole.get('num_classes')}


def _of_scheduler(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The noise process that a ``scheduler_config.json`` says, read with the defaults of its own class.

    Raises:
        ValueError: a class, or a use of it, whose process is not x_t = sqrt(a_t) x0 + sqrt(1 - a_t) eps at t = 0..T-1.
    """
    name = config.get('_class_name', 'DDPMScheduler')
    scheduler = None
    kind = SCHEDULERS.get(name)  # of a path that the user's config names for something else, any class
    if inspect.isclass(kind) and issubclass(kind, SchedulerMixin):
        needed = [p.name for p in inspect.signature(kind.__init__).parameters.values()
                  if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ('self', *config)]
        with building(f'The scheduler of {folder}', TypeError):
            scheduler = None if needed else kind.from_config(dict(config))
    if scheduler is None or not (is_flow(scheduler) or isinstance(getattr(scheduler, 'alphas_cumprod', None), Tensor)):
        raise ValueError(f"The network in {folder} was trained for another process than denoising diffusion with "
                         f"discrete timesteps or rectified flow: its scheduler is a '{name}'. slimdiff cannot use it; "
                         'take a network of DDPM, LDM or Stable Diffusion 1 or 2, or one trained by flow matching.')
    if scheduler.config.get('timestep_type', 'discrete') != 'discrete':
        raise ValueError(f"The network in {folder} takes logarithms of noise levels for timesteps ({name} with "
                         f"timestep_type='{scheduler.config.timestep_type}'); slimdiff's networks take 0..T-1.")
    return process_of(scheduler)


def _scheduler_words(process: Mapping[str, Any]) -> dict[str, Any]:
    """A process as a ``scheduler_config.json`` says it."""
    config = training_config(process)
    return {'_class_name': config.pop('type'), **config}


def _of_first_stage(autoencoder: nn.Module) -> dict[str, Any] | None:
    """Class, normalisation and encoder of a first stage; None in pixels."""
    if autoencoder.downsampling == 1 and not hasattr(autoencoder, 'network_name'):
        return None
    if hasattr(autoencoder, 'describe'):
        return autoencoder.describe()
    return {'class': type(autoencoder).__name__}


def _scheduler_config(folder: Path, network: Path) -> dict[str, Any]:
    """The scheduler_config.json of a pipeline or beside a network; {} if there is none."""
    for place in (folder / 'scheduler', folder, network.parent / 'scheduler'):
        if (place / 'scheduler_config.json').is_file():
            return read_json(place / 'scheduler_config.json', 'Save the scheduler again.')
    return {}


def json_data(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, the name of what JSON does not have."""
    return json.loads(json.dumps(value, default=lambda item: getattr(item, '__qualname__', type(item).__name__)))


def _as_record(found: Any, where: Any) -> dict[str, Any]:
    kinds = {'schedule': dict, 'network': dict, 'prediction_type': str, 'first_stage': (dict, type(None))}
    try:
        if not all(isinstance(found[key], kinds[key]) for key in kinds if key in found):
            raise TypeError('a value of another type')
        noise_process(found.get('schedule', {}))
        return dict(found)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f'{where}: the record of what the network computes is damaged: {error}.') from None


# ---- the comparison -----------------------------------------------------------------------------------------------


def check_same(theirs: Mapping[str, Any], model: Any, source: Any, trust_config: bool = False) -> None:
    """Raise ComputationError if a model computes something else than its weights were trained for.

    Args:
        theirs: the record of the weights.
        model: that takes them.
        source: where they are from, for the message.
        trust_config: the user wants the config's values in any case.
    """
    if trust_config or not theirs:
        return
    adopt_open_arguments(model.unet, theirs.get('network') or {})
    found = differences(theirs, of_model(model))
    if found:
        listed = '; '.join(f'{name}: {given} (checkpoint), {wanted} (config)' for name, given, wanted in found)
        raise ComputationError(
            f'{source} was trained for another computation than that of this config: {listed}. Give the config the '
            "checkpoint's values, or take the config that it was trained with. --trust-config uses the config's values "
            'in spite of that.')


def adopt_open_arguments(network: nn.Module, recorded: Mapping[str, Any]) -> None:
    """Give a network those arguments that its config leaves open and that the weights' training has decided."""
    inner = bare(network)
    if hasattr(inner, 'adopt'):
        changed = inner.adopt(recorded)
        network.register_to_config(**changed)


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any],
                only: Collection[str] | None = None) -> list[tuple[str, Any, Any]]:
    """What differs in two records: (name, theirs, mine). Unknown values differ from nothing.

    Args:
        only: keys of the records to compare; all by default.
    """
    found = []
    for key in theirs:
        if key not in mine or (only is not None and key not in only):
            continue
        if key == 'schedule':
            found += _schedule_differences(theirs[key], mine[key])
        else:
            prefix = '' if key == 'network' else f'{key}.'
            found += _compare(key, theirs[key], mine[key], prefix)
    return found


def _compare(name: str, theirs: Any, mine: Any, prefix: str) -> list[tuple[str, Any, Any]]:
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        return [difference for key in theirs if key in mine
                for difference in _compare(f'{prefix}{key}', theirs[key], mine[key], f'{prefix}{key}.')]
    if isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        if not all(isinstance(v, Mapping) for v in theirs):
            tolerance = ENCODER_TOLERANCE if name.endswith('.encoder') else TOLERANCE
            return [] if all(_equal(a, b, tolerance) for a, b in zip(theirs, mine)) else [(name, theirs, mine)]
        return [difference for i, (a, b) in enumerate(zip(theirs, mine))
                for difference in _compare(f'{name}.{i}', a, b, f'{name}.{i}.')]
    return [] if _equal(theirs, mine) else [(name, theirs, mine)]


def _equal(a: Any, b: Any, tolerance: float = TOLERANCE) -> bool:
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in (a, b)):
        return a == b
    return abs(a - b) <= tolerance * max(abs(a), abs(b))


def _schedule_differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """By what the schedules give, not by how they say it; named by the words that differ."""
    one, other = noise_process(theirs), noise_process(mine)
    if one.name != other.name:
        return [('noise process', one.name, other.name)]
    if one.num_train_timesteps != other.num_train_timesteps:
        return [('num_train_timesteps', one.num_train_timesteps, other.num_train_timesteps)]
    if same_process(one, other):
        return []
    given, wanted = one.alphas_cumprod, other.alphas_cumprod
    if 'trained_betas' not in theirs and 'trained_betas' not in mine:
        words = [(key, theirs.get(key), mine.get(key)) for key in SCHEDULE_KEYS if theirs.get(key) != mine.get(key)]
        if words:
            return words
    t = int((given - wanted).abs().argmax())
    return [(f'alphas_cumprod[{t}]', f'{given[t]:.4f}', f'{wanted[t]:.4f}')]

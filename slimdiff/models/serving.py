"""What of a model's config is needed to sample from it, and what its images depend on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from slimdiff.arguments import plain
from slimdiff.checkpoint.same import as_json
from slimdiff.checkpoint.tensor_store import network_fingerprint
from slimdiff.registry import MODELS

#: attributes of a model's parts that change no image: where they are loaded from, and how much at a time
_HARMLESS = ('training', 'checkpoint', 'folder', 'cache', 'decode_batch')
#: keys of a scheduler's config that are slimdiff's own; those that are diffusers' begin with an underscore, too
OURS = ('_eta', '_sigmas', '_timesteps')


def serving_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config without what only its training needs, such as a teacher (its class says what that is)."""
    strip = getattr(MODELS.get(config.get('type', '')), 'serving_config', plain)
    return strip(config)


def network_digest(config: Mapping[str, Any]) -> str:
    """Names the network that a model's config describes: configs that share it share its counts and its speed."""
    serving = serving_config(config)
    # What is not given has the class's default, and None need not be that.
    parts = {key: serving[key] for key in ('unet', 'num_classes', 'sigma_data') if key in serving}
    if conditioner := serving.get('conditioner'):  # it decides on the length of the context, wherever its weights are
        parts['conditioner'] = {key: value for key, value in conditioner.items() if key in ('type', 'max_length')}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sampling_identity(model: Any, scheduler: Any = None, num_steps: int | None = None,
                      guidance_scale: float | None = None, **more: Any) -> dict[str, Any]:
    """All that decides which images a built model draws, as plain data: what is kept of it is good for as long as this
    stays the same.

    It goes by the content of weights and by settings as they are in force, not by the names of files, the defaults of
    a config or the command line.

    Args:
        scheduler, num_steps, guidance_scale: as for ``model.sample``; None is the model's own.
        more: further arguments of ``model.sample``, and whatever else the images depend on.
    """
    sampler = model.sampler_of(scheduler, num_steps) if hasattr(model, 'sampler_of') else scheduler
    allocation = getattr(model.unet, 'allocation', None)
    return as_json(dict(
        {name: _part(getattr(model, name, None)) for name in ('unet', 'autoencoder', 'conditioner')},
        noise_process=_scheduler(getattr(model, 'noise_scheduler', None)),
        prediction_type=getattr(model, 'prediction_type', None),
        sampler=_scheduler(sampler), num_steps=getattr(model, 'num_steps', None) if num_steps is None else num_steps,
        guidance_scale=getattr(model, 'guidance_scale', 1) if guidance_scale is None else guidance_scale,
        captions=list(getattr(model, 'sample_captions', None) or []),
        allocation=None if allocation is None else allocation.to_dict(), **more))


def _part(part: Any) -> dict[str, Any]:
    """Weights and settings of a network, a first stage or a text encoder."""
    if not isinstance(part, nn.Module):
        return {}
    # Weights that are loaded late are in no state dict: first stages and text encoders give the content of the files.
    digest = next((getattr(part, name)() for name in ('stamp', 'fingerprint') if hasattr(part, name)), None)
    settings = {} if digest is None else {
        key: value for key, value in vars(part).items() if not key.startswith('_') and key not in _HARMLESS
        and isinstance(value, (bool, int, float, str, list, tuple, dict, type(None)))}
    if hasattr(type(part), 'latent_scale'):
        settings['latent_scale'] = float(part.latent_scale)
    return {'weights': network_fingerprint(part) if digest is None else digest, **settings}


def _scheduler(scheduler: Any) -> dict[str, Any]:
    config = getattr(scheduler, 'config', {})
    kept = {key: str(value) if value in (math.inf, -math.inf) else value  # which JSON has not
            for key, value in config.items() if not key.startswith('_') or key in OURS}
    return {'type': type(scheduler).__name__} | kept

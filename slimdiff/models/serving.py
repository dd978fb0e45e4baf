"""What of a model's config is needed to sample from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from slimdiff.registry import MODELS, plain


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

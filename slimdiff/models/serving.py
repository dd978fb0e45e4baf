"""What of a model's config is needed to sample from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slimdiff.registry import MODELS, plain


def serving_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config without what only its training needs, such as a teacher (its class says what that is)."""
    strip = getattr(MODELS.get(config.get('type', '')), 'serving_config', plain)
    return strip(config)

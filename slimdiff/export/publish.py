"""A training checkpoint made fit to be given away: weights, what they are, and nothing else."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimdiff.checkpoint.files import FORMAT, FORMAT_VERSION
from slimdiff.checkpoint.plain_data import encode
from slimdiff.models.computation import of_model
from slimdiff.models.serving import serving_config
from slimdiff.version import __version__

CARD = 'README.md'
HASH_DIGITS = 8


def published_checkpoint(model: nn.Module, config: Mapping[str, Any], meta: Mapping[str, Any],
                         weights: str) -> dict[str, Any]:
    """What a published ``.pth`` holds.

    Args:
        model: with the weights that are published.
        config: that of the model, a teacher and losses included or not; they are left out.
        meta: of the training checkpoint.
        weights: which set of it ``model`` has, 'ema' or 'online'.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return encode({
        'meta': {
            'format': FORMAT, 'format_version': FORMAT_VERSION, 'slimdiff_version': __version__,
            'computes': of_model(model),
            'config': {'model': serving_config(config)},
            'iter': meta.get('iter'), 'seed': meta.get('seed'), 'dataset_meta': _classes_of(meta),
            'published': {'weights': weights, 'trained_with': meta.get('slimdiff_version')}},
        'state_dict': state})


def _classes_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Of the data set only the names of its classes: the rest may tell of the publisher's disk."""
    classes = (meta.get('dataset_meta') or {}).get('classes')
    return {'classes': list(classes)} if classes else {}


def write_published(checkpoint: Mapping[str, Any], folder: Path, name: str) -> Path:
    """Write ``<name>-<hash>.pth`` into ``folder``; the hash is the beginning of the file's SHA-256."""
    temporary = folder / f'{name}.pth'
    torch.save(dict(checkpoint), temporary)
    path = folder / f'{name}-{sha256(temporary)[:HASH_DIGITS]}.pth'
    os.replace(temporary, path)
    return path


def published_names(folder: Path, name: str) -> set[str]:
    """The files in ``folder`` that an earlier publication of ``name`` has left."""
    pattern = re.compile(rf'{re.escape(name)}-[0-9a-f]{{{HASH_DIGITS}}}\.pth')
    return {file.name for file in folder.glob('*.pth') if pattern.fullmatch(file.name)} | {CARD}


def sha256(path: Path) -> str:
    """64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

"""Sets of images that analyses share: generated ones that are made once, and real ones in two halves."""

from __future__ import annotations

import functools
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from slimdiff.checkpoint import atomic_write
from slimdiff.checkpoint.same import as_json, differences, listed
from slimdiff.evaluation.common import evaluating, representative
from slimdiff.progress import Progress
from slimdiff.sampling.images import to_uint8


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files of a folder; 16 digits."""
    path, digest = Path(path), hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob('*') if p.is_file()):
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode())
        with open(file, 'rb') as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _load(path: Path, settings: Mapping[str, Any]) -> Tensor | None:
    """The images of a file, if they come from these settings."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as data:
            found = differences(json.loads(str(data['settings'])), settings)
            if not found:
                return torch.from_numpy(data['images'])
            why = f'holds images made with other values of{listed(found)}\n'
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        why = f'is damaged ({error}). '
    print_log(f'{path} {why}They are made again.', logger='current')
    return None


def generated_images(path: str | Path, settings: Mapping[str, Any], build: Callable[[], Any], num_images: int,
                     seed: int = 0, batch_size: int = 100, sampling: Mapping[str, Any] | None = None,
                     name: str = 'sampling', save_seconds: float = 30.0) -> Tensor:
    """Images 0 ... ``num_images`` - 1 of a model, (N, C, H, W) uint8, kept in an npz file.

    What the file has of them is not made again: a run that was interrupted goes on where it was, and a larger
    ``num_images`` adds to a smaller one (image i depends on the seed and i alone).

    Args:
        path: of the file.
        settings: what the images depend on, as plain data; a file of other settings is replaced.
        build: makes the model; not called if nothing is missing.
        sampling: ``num_steps`` and other arguments of ``model.sample``.
        save_seconds: the file is written so often, and at the end or an interrupt.
    """
    path, settings = Path(path), {**settings, 'seed': seed, 'sampling': dict(sampling or {})}
    settings = as_json(settings)
    images = _load(path, settings)
    if images is not None and len(images) >= num_images:
        return images[:num_images]
    made = [] if images is None else [images]

    def save() -> None:
        if made:
            made[:] = [torch.cat(made)]
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, lambda file: np.savez(file, images=made[0].numpy(), settings=json.dumps(settings)))

    model, start = build(), sum(map(len, made))
    steps = (sampling or {}).get('num_steps') or model.num_steps
    saved = time.monotonic()
    try:
        with Progress(num_images - start, name) as bar, evaluating(model):
            while start < num_images:
                part = range(start, min(start + batch_size, num_images))
                images = model.sample(part, seed=seed, on_step=functools.partial(bar.update, len(part) / steps),
                                      **(sampling or {}))
                made.append(to_uint8(images).cpu())
                start = part.stop
                if time.monotonic() - saved > save_seconds:
                    save()
                    saved = time.monotonic()
    finally:
        save()
    return made[0]


def real_halves(dataset: Any, num_images: int) -> list[tuple[Tensor, Tensor | None]]:
    """Two sets of ``num_images`` different real images each: images (N, C, H, W) in [-1, 1] and labels (N,) or None.

    A data set that has fewer than twice as many, and no other images in the next epoch (``fresh_epochs``), is halved.

    Raises:
        ValueError: fewer than four images.
    """
    enough = getattr(dataset, 'fresh_epochs', False) or len(dataset) >= 2 * num_images
    if not enough:
        if len(dataset) < 4:
            raise ValueError(f'The data set {type(dataset).__name__} has {len(dataset)} images; two halves need at '
                             'least 4.')
        print_log(f'The data set has {len(dataset)} images: {len(dataset) // 2} in each half instead of {num_images}.',
                  logger='current')
        num_images = len(dataset) // 2
    numbers = representative(dataset, 2 * num_images)
    if enough and any(getattr(dataset, name, False) for name in ('fresh_epochs', 'random_order')):
        parts = numbers[:num_images], numbers[num_images:]
    else:  # every other one, as files come in the order of their classes
        parts = numbers[::2], numbers[1::2]
    halves = []
    for part in parts:
        samples = [dataset[i] for i in part]
        labels = torch.tensor([int(s['labels']) for s in samples]) if 'labels' in samples[0] else None
        halves.append((torch.stack([s['inputs'] for s in samples]), labels))
    return halves

"""Weights of a checkpoint: which of them a model takes, and why it refuses others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimdiff.checkpoint.files import CheckpointError, load_checkpoint


class ArchitectureError(CheckpointError):
    """Weights of another model than the one that should take them.

    Args:
        path: where they come from.
        differences: in a few words.
    """

    def __init__(self, path: str | Path, differences: str) -> None:
        where = (f'slimdiff print_config {path} --out its_config.py writes it' if Path(path).suffix == '.pth' else
                 "a copy lies beside a training's checkpoints")
        super().__init__(f'Use the config that {Path(path).name} was trained with ({where}): {path} is of another '
                         f'architecture than the model of this config ({differences}). Nothing was loaded.')


def count_some(names: Sequence[str], limit: int = 1) -> str:
    """How many there are, and the first of them."""
    return f'{len(names)} ({", ".join(names[:limit])}{", ..." if len(names) > limit else ""})'


def check_finite(weights: Mapping[str, Tensor], filename: str | Path) -> None:
    """Raise CheckpointError for NaN or infinity in weights: whatever is made of them would be noise."""
    bad = [name for name, value in weights.items()
           if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise CheckpointError(f'{filename} holds NaN or infinity in {count_some(bad)} of its {len(weights)} weights: '
                              'its training diverged, or the file is damaged. Nothing was loaded. Use an older '
                              'checkpoint.')


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], filename: str | Path) -> None:
    """Raise ArchitectureError unless ``weights`` have exactly the names and shapes of ``expected``.

    NaN or infinity in them is a CheckpointError.
    """
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    shapes = [f'{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}'
              for name, value in expected.items() if name in weights and weights[name].shape != value.shape]
    if missing or unexpected or shapes:
        same = len(expected) - len(missing) - len(shapes)
        parts = [f'{what}: {count_some(names)}' for what, names in (
            ('missing', missing), ('unexpected', unexpected), ('of another shape', shapes)) if names]
        raise ArchitectureError(filename, f'{same} of {len(expected)} weights fit; {"; ".join(parts)}')
    check_finite(weights, filename)


def unprefixed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without the ``module.`` of a DDP wrapper."""
    return {name.removeprefix('module.'): value for name, value in weights.items()}


def weights_of(checkpoint: Mapping[str, Any], weights: str = 'ema', filename: str | Path = 'checkpoint') -> dict:
    """The whole state dict of the model, with the averaged weights put in place for ``'ema'``.

    A published file has one set of weights, its publisher's choice: that is what it gives either way.

    Raises:
        ValueError: ``weights`` is neither 'ema' nor 'online'.
        CheckpointError: 'ema' from a checkpoint that has none.
    """
    if weights not in ('ema', 'online'):
        raise ValueError(f"weights='{weights}' is unknown; choose 'ema' or 'online'.")
    state = unprefixed(checkpoint['state_dict'])
    if weights == 'ema' and 'published' not in checkpoint.get('meta', {}):
        if 'ema' not in checkpoint:
            raise CheckpointError(f"{filename} holds no EMA weights (it was trained without EMAHook). Ask for the "
                                  "trained ones: weights='online' (--weights online).")
        state.update(checkpoint['ema']['state_dict'])
    return state


def load_weights(model: nn.Module, filename: str | Path, weights: str = 'ema') -> dict[str, Any]:
    """Load the weights of a checkpoint into a model, strictly; returns the checkpoint's ``meta``.

    A model with ``trained_as(meta, filename)`` is told what it was trained on.

    Args:
        weights: 'ema' for the averaged weights, 'online' for those that the optimizer trains.

    Raises:
        CheckpointError: as :func:`load_checkpoint`; no EMA in it; an :class:`ArchitectureError` for weights of
            another model.
    """
    checkpoint = load_checkpoint(filename)
    put_weights(model, checkpoint, filename, weights)
    return checkpoint['meta']


def put_weights(model: nn.Module, checkpoint: Mapping[str, Any], filename: str | Path, weights: str = 'ema') -> None:
    """As :func:`load_weights`, of a checkpoint that is read already."""
    model = getattr(model, 'module', model)
    # What only training needs (a distiller's projections) may lie in the checkpoint of a model that is served.
    extra, expected = tuple(getattr(model, 'training_only', ())), model.state_dict()
    state = {name: value for name, value in weights_of(checkpoint, weights, filename).items()
             if name in expected or not name.startswith(extra)}
    check_weights(state, expected, filename)
    if hasattr(model, 'trained_as'):
        model.trained_as(checkpoint['meta'], str(filename))
    model.load_state_dict(state, strict=True)

"""Objects as plain data and back, so that a checkpoint loads with ``weights_only=True``.

Plain data are tensors, numbers, strings, None, lists, tuples and dicts with string or integer keys. mmengine keeps
its logs in ``HistoryBuffer`` objects around numpy arrays: as they are, only unpickling of arbitrary objects could read
them (DESIGN: a checkpoint must never be able to run code).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_BUFFER = '__history_buffer__'
_ARRAY = '__ndarray__'


def encode(value: Any, path: str = 'checkpoint') -> Any:
    """Copy containers, with every HistoryBuffer and numpy value made plain; tensors are shared, not copied.

    Raises:
        TypeError: something that has no plain form; names its place.
    """
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)):
        # numpy's float64 is a float by inheritance, but pickles as a numpy object.
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, HistoryBuffer):
        return {_BUFFER: [encode(array, path) for array in value.data], 'max_length': value.max_length}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        return {_ARRAY: torch.from_numpy(value.copy())}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)):
                raise TypeError(f'{path}: a key of type {type(key).__name__} cannot be saved; use str or int.')
        return {key: encode(item, f'{path}.{key}') for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [encode(item, f'{path}[{i}]') for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise TypeError(f'{path}: an object of type {type(value).__name__} cannot be saved as plain data; '
                    'store numbers, strings, tensors, lists or dicts.')


def decode(value: Any) -> Any:
    """Undo :func:`encode`."""
    if isinstance(value, dict):
        if _BUFFER in value:
            history, counts = (decode(array) for array in value[_BUFFER])
            return HistoryBuffer(history, counts, value['max_length'])
        if _ARRAY in value:
            return value[_ARRAY].numpy()
        return {key: decode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(decode(item) for item in value)
    return value


def encode_or_drop(mapping: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Encode what can be; return it and the names of what can't (for logs, which training does not depend on)."""
    kept, dropped = {}, []
    for key, value in mapping.items():
        try:
            kept[key] = encode(value, key)
        except TypeError:
            dropped.append(key)
    return kept, dropped

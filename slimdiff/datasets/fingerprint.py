"""Whether two data sets are the same, by a look at some of their samples."""

from __future__ import annotations

from typing import Any

from slimdiff.checkpoint.tensor_store import content_key


def dataset_fingerprint(dataset: Any, samples: int = 8) -> str:
    """Of the number of samples, and the images of some of them from all over the data set."""
    count = len(dataset)
    indices = sorted({i * (count - 1) // max(samples - 1, 1) for i in range(samples)}) if count else []
    return content_key(str(count), *[dataset[i].get('inputs') for i in indices]).hex()

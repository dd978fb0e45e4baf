"""The two contracts of metrics.

A :class:`SetMetric` compares a set of generated images with a set of real ones. It keeps *rows*: one statistic for
each image, in image order. So any metric can be sharded over ranks (rows are concatenated in rank order, the result
is the one of a single process), cached (the real rows) and measured against itself (the floor: one half of the real
rows against the other).

A :class:`ModelMetric` looks at the model itself on a paired data set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from slimdiff.evaluation.common import Rows, concatenate, num_rows


class ModelMetric(ABC):
    """A figure measured on the model and a data set, no sampling needed."""

    #: whether :meth:`evaluate` shows its progress (:class:`~slimdiff.progress.Progress`); set by the caller
    progress = True

    @abstractmethod
    def evaluate(self, model: Any, dataloader: DataLoader) -> dict[str, float]:
        """Return the figures, the same on all ranks."""


class SetMetric(ABC):
    """A distance between the sets of real and of generated images."""

    #: fewest images of each set for which the distance is defined
    minimum = 2
    #: whether the rows hold the ``labels`` of the images, too
    labelled = False

    def __init__(self) -> None:
        self._chunks: dict[bool, list[Rows]] = {True: [], False: []}
        #: what the cached real rows were made of; None if there are none. Set by the caller.
        self.real_key: Any = None
        self.real_data: Any = None

    @abstractmethod
    def statistics(self, images: Tensor) -> Rows:
        """Per-image statistics: named tensors with one row for each image; (N, C, H, W) in [-1, 1] comes in."""

    @abstractmethod
    def distance(self, real: Rows, generated: Rows) -> dict[str, float]:
        """The figures, from the rows of both sets."""

    def check_data(self, metainfo: Mapping[str, Any]) -> None:  # noqa: B027 (most have nothing to check)
        """Raise ValueError if the metric has no meaning on a data set; called before its images come."""

    def rows_of(self, images: Tensor, labels: Tensor | None = None) -> Rows:
        """:meth:`statistics`, and the ``labels`` (N,) where the metric is :attr:`labelled`.

        Raises:
            ValueError: there are none.
        """
        rows = self.statistics(images)
        if self.labelled:
            if labels is None:
                raise ValueError(f'{type(self).__name__} needs labels, of the data set and of the generated images: a '
                                 'data set with classes and a model with num_classes.')
            rows = {**rows, 'labels': labels}
        return rows

    def update(self, images: Tensor, real: bool, labels: Tensor | None = None) -> None:
        """Add a batch of images, (N, C, H, W) float in [-1, 1], on any device.

        Raises:
            ValueError: not a float batch, NaN among the values, or no labels for a metric that needs them.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f'{type(self).__name__}: images must be float (N, C, H, W) in [-1, 1], got '
                             f'{images.dtype} {tuple(images.shape)}. Divide uint8 by 127.5 and subtract 1.')
        if not torch.isfinite(images).all():
            raise ValueError(f'{type(self).__name__}: {"real" if real else "generated"} images hold NaN or infinity. '
                             'Look at the training loss and at the sampler settings.')
        # float32 whatever autocast the evaluation runs in: bf16 would move the figures.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            rows = self.rows_of(images.float(), labels)
        self._chunks[bool(real)].append({key: value.detach().cpu() for key, value in rows.items()})

    def rows(self, real: bool) -> Rows:
        """All rows of one set, (number of images, ...) each; empty dict if there are none."""
        chunks = self._chunks[bool(real)]
        if len(chunks) > 1:
            chunks[:] = [concatenate(chunks)]
        return chunks[0] if chunks else {}

    def load_rows(self, rows: Rows, real: bool) -> None:
        """Replace the rows of one set, e.g. by those gathered from all ranks."""
        self._chunks[bool(real)] = [rows] if rows else []

    def count(self, real: bool) -> int:
        """Number of images seen in one set."""
        return num_rows(self.rows(real))

    def reset_generated(self) -> None:
        """Forget the generated images; the real rows stay for the next evaluation."""
        self._chunks[False] = []

    def reset(self) -> None:
        """Forget both sets."""
        self._chunks = {True: [], False: []}
        self.real_key = self.real_data = None

    def compute(self) -> dict[str, float]:
        """The figures.

        Raises:
            ValueError: too few images in one of the sets.
        """
        for real in (True, False):
            if self.count(real) < self.minimum:
                raise ValueError(f'{type(self).__name__} needs at least {self.minimum} '
                                 f'{"real" if real else "generated"} images, got {self.count(real)}. '
                                 'Raise num_images of the evaluation or use a larger data set.')
        return self.distance(self.rows(True), self.rows(False))

"""A teacher's outputs on disk, for studies in which many students see the same batches."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from slimdiff.checkpoint.tensor_store import TensorStore, content_key, network_fingerprint


class TeacherCache(TensorStore):
    """Keeps what a teacher computed for a batch: its prediction and features, by tap.

    Students trained with the same seed, batch size and data meet the same ``(x_t, t, condition)`` in every iteration
    (:class:`~slimdiff.models.algorithms.DiffusionModel`), so the teacher runs for the first of them only. The key is
    the content of the batch: another batch never finds these outputs, and a run of another seed finds none.

    Args:
        folder: one file for each teacher is made in it.
        teacher: the network; its weights, precision and class name the file.

    Raises:
        ValueError: ``folder`` can't be written.
    """

    def __init__(self, folder: str | Path, teacher: nn.Module) -> None:
        super().__init__(Path(folder) / f'{network_fingerprint(teacher)}.sqlite')

    @staticmethod
    def key(*parts: Tensor | str | None) -> bytes:
        """Key of a batch: its tensors' content, shapes and dtypes, and what else the outputs depend on."""
        return content_key(*parts)

"""A teacher's answers on disk, for studies in which many students ask the same questions."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from slimdiff.checkpoint.tensor_store import TensorStore, content_key, network_fingerprint


class TeacherCache(TensorStore):
    """Keeps what a teacher said to a batch: its prediction and features, by tap.

    Students trained with the same seed, batch size and data meet the same ``(x_t, t, condition)`` in every iteration
    (:class:`~slimdiff.models.algorithms.DiffusionModel`), so the second one need not ask the teacher again. An answer
    is found by the content of the question, so a store can never give that of another one, and a run of another seed
    only finds nothing.

    Args:
        folder: one file for each teacher is made in it.
        teacher: the network; its weights, precision and class name the file.

    Raises:
        ValueError: ``folder`` can't be written.
    """

    def __init__(self, folder: str | Path, teacher: nn.Module) -> None:
        super().__init__(Path(folder) / f'{network_fingerprint(teacher)}.sqlite')

    @staticmethod
    def question(*parts: Tensor | None) -> bytes:
        """Key of a batch: its tensors' content, shapes and dtypes."""
        return content_key(*parts)

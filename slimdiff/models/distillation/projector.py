"""Bring a student's and a teacher's feature map to one shape."""

from __future__ import annotations

from torch import Tensor, nn

from slimdiff.models.losses.distillation import resize


class FeatureProjector(nn.Module):
    """Project the student's channels to the teacher's and resize the larger map to the smaller.

    The projection P is a learned 1x1 convolution, there only where the channels differ. It is trained with the student
    and is not part of it. The larger map is made smaller, never the smaller one larger: enlarging would compare high
    frequencies that one of the two cannot have.

    Args:
        name: of the tap, for the error.
        student, teacher: shapes (N, C, H, W) at the tap.

    Raises:
        ValueError: a map that is not (N, C, H, W), or two of different proportions.
    """

    def __init__(self, name: str, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        super().__init__()
        both = f'the student gives {tuple(student)}, the teacher {tuple(teacher)}'
        if len(student) != 4 or len(teacher) != 4:
            raise ValueError(f"Tap '{name}' can't be compared: {both}; both must be feature maps (N, C, H, W). Tap the "
                             'stage or block around it.')
        if student[2] * teacher[3] != student[3] * teacher[2]:
            raise ValueError(f"Tap '{name}' can't be compared: {both}; resizing would change the proportions.")
        if name == 'output' and student[1] != teacher[1]:
            raise ValueError(f"Tap 'output' can't be compared: {both}; the predictions need as many channels. (A "
                             'network that also predicts the variance has twice as many.)')
        self.project = None
        if student[1] != teacher[1]:
            self.project = nn.Conv2d(student[1], teacher[1], 1, bias=False)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C_S, H_S, W_S), (N, C_T, H_T, W_T) -> two (N, C_T, H, W)."""
        size = min(student.shape[2:], teacher.shape[2:])
        student = resize(student, size)  # before the projection, which then has less to do
        if self.project is not None:
            student = self.project(student)
        return student, resize(teacher, size)

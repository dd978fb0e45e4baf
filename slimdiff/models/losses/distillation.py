"""What all distillation losses share: where they look, how much they count, and in which precision they compute."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn


def parse_taps(tap: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Student's tap -> teacher's tap, from one name, several, or a mapping.

    Raises:
        ValueError: no tap, or a name that is no string.
    """
    pairs = {tap: tap} if isinstance(tap, str) else dict(tap) if isinstance(tap, Mapping) else {t: t for t in tap}
    if not pairs or not all(isinstance(name, str) and name for pair in pairs.items() for name in pair):
        raise ValueError(f"tap: got {tap!r}; give 'output', a module such as 'up1', a list of such names, or "
                         "{student's name: teacher's name}.")
    return pairs


class DistillationLoss(nn.Module):
    """Base of the distillation losses: a subclass writes :meth:`compare`, and nothing else.

    Args:
        tap: where student and teacher are compared: ``'output'``, a module such as ``'up1'``, several in a list, or a
            dict from the student's module to the teacher's. The terms of several taps are added.
        weight: lambda of the paper. At 0 the loss is not computed.
        relative: divide by what a student that is zero everywhere would get, ``compare(0, teacher)``, of the whole
            batch of all ranks. Features have no fixed scale; so measured, a weight means the same at every tap.

    Raises:
        ValueError: a negative weight, or a tap that is no name.
    """

    def __init__(self, tap: str | Sequence[str] | Mapping[str, str] = 'output', weight: float = 0.1,
                 relative: bool = False) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f'{type(self).__name__}: weight (the lambda of the loss) must be at least 0, '
                             f'got {weight}.')
        self.taps = parse_taps(tap)
        self.weight = weight
        self.relative = relative

    @property
    def name(self) -> str:
        """For logs: ``wavelet_band`` for WaveletBandLoss. (mmengine would add up what is named "...loss".)"""
        return re.sub(r'(?<=[a-z])(?=[A-Z])', '_', type(self).__name__.removesuffix('Loss')).lower()

    def compare(self, student: Tensor, teacher: Tensor, x0: Tensor) -> Tensor:
        """Distance of student and teacher, both (N, C, H, W) float32, as a scalar; 0 if they are equal.

        Args:
            x0: the clean input (N, C0, H, W), at the resolution of the tap.
        """
        raise NotImplementedError

    def forward(self, student: Tensor, teacher: Tensor, x0: Tensor) -> Tensor:
        """The unweighted loss of one tap. No gradient reaches the teacher; bf16 is compared in float32.

        With ``relative`` every rank of a distributed run must call it.
        """
        teacher = teacher.detach().float()
        x0 = resize(x0.detach().float(), teacher.shape[-2:])
        with torch.autocast(student.device.type, enabled=False):
            scale = None
            if self.relative:  # first: the value keeps maps for its gradient, and memory peaks here
                with torch.no_grad():
                    # Of all ranks: with B samples each they train as one with all of them.
                    scale = mean_over_ranks(self.compare(teacher.new_zeros(()).expand_as(teacher), teacher, x0))
            value = self.compare(student.float(), teacher, x0)
        return value if scale is None else value / scale.clamp_min(1e-12)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a scalar over all ranks; each must call it."""
    value = value.clone()
    all_reduce(value, 'mean')
    return value


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (N, C, H, W) to ``size``, bilinearly and without aliasing; half precision gives float32."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # PyTorch has no bf16 antialiasing on CPU
    return nn.functional.interpolate(x, tuple(size), mode='bilinear', antialias=True)

import pytest
import torch
from torch.nn import functional as F

from slimdiff.models.distillation import FeatureProjector


def test_equal_shapes_pass_through():
    projector = FeatureProjector('up1', (1, 4, 8, 8), (1, 4, 8, 8))
    student, teacher = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    a, b = projector(student, teacher)
    assert a is student and b is teacher and not list(projector.parameters())


@pytest.mark.parametrize('sizes', [(8, 4), (4, 8), (8, 8)])
def test_the_larger_is_resized_and_the_student_projected(sizes):
    mine, theirs = sizes
    projector = FeatureProjector('mid', (1, 3, mine, mine), (1, 5, theirs, theirs))
    student, teacher = torch.randn(2, 3, mine, mine), torch.randn(2, 5, theirs, theirs)
    a, b = projector(student, teacher)
    small = min(sizes)
    resized = [x if x.shape[-1] == small else F.interpolate(x, (small, small), mode='bilinear', antialias=True)
               for x in (student, teacher)]
    torch.testing.assert_close(a, torch.einsum('oi,nihw->nohw', projector.project.weight[:, :, 0, 0], resized[0]))
    torch.testing.assert_close(b, resized[1])
    assert [tuple(p.shape) for p in projector.parameters()] == [(5, 3, 1, 1)]


@pytest.mark.parametrize('name, student, teacher, message', [
    ('up1', (1, 4, 8, 8), (1, 4, 8, 16), 'proportions'),
    ('emb', (1, 4), (1, 4, 8, 8), r'both must be feature maps \(N, C, H, W\)'),
    ('output', (1, 3, 8, 8), (1, 6, 8, 8), 'predictions need as many channels'),
])
def test_what_cannot_be_projected_names_both_shapes(name, student, teacher, message):
    with pytest.raises(ValueError, match=message) as caught:
        FeatureProjector(name, student, teacher)
    assert f"Tap '{name}'" in str(caught.value)
    assert f'the student gives {student}, the teacher {teacher}' in str(caught.value)


def test_bf16_maps_of_different_sizes():
    projector = FeatureProjector('mid', (1, 3, 8, 8), (1, 5, 4, 4))
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    exact, _ = projector(student, teacher)
    with torch.autocast('cpu', torch.bfloat16):
        half, same = projector(student.bfloat16(), teacher.bfloat16())
    assert (half - exact).norm() < 0.02 * exact.norm() and same.shape == teacher.shape
    larger = FeatureProjector('mid', (1, 5, 4, 4), (1, 5, 8, 8))
    assert larger(teacher, torch.randn(2, 5, 8, 8).bfloat16())[1].dtype == torch.float32


def test_maps_of_another_size_than_at_the_start_are_not_made_smaller():
    projector = FeatureProjector('up1', (1, 4, 8, 8), (1, 4, 8, 8))
    student, teacher = torch.randn(2, 4, 16, 32), torch.randn(2, 4, 16, 32)
    assert projector(student, teacher)[0] is student and projector(student, teacher)[1] is teacher

import pytest
import torch

from slimdiff.models.losses import SpatialLoss


def test_by_hand():
    student = torch.tensor([[[[1., 2.], [3., 4.]]]])
    teacher = torch.tensor([[[[1., 0.], [3., 1.]]]])
    x0 = torch.zeros(1, 3, 2, 2)
    assert SpatialLoss()(student, teacher, x0).item() == (4 + 9) / 4
    # A student of zeros would get (1 + 0 + 9 + 1) / 4.
    assert SpatialLoss(relative=True)(student, teacher, x0).item() == pytest.approx(13 / 11)


def test_relative_does_not_see_the_scale():
    student, teacher, x0 = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8)
    loss = SpatialLoss(relative=True)
    torch.testing.assert_close(loss(student, teacher, x0), loss(7 * student, 7 * teacher, x0))
    assert loss(torch.zeros_like(teacher), teacher, x0).item() == pytest.approx(1)

import numpy as np
import pytest
import torch

from slimdiff.models.losses import FourierLoss


@pytest.mark.parametrize('size', [(6, 6), (5, 7), (4, 1)])
def test_against_the_full_spectrum(size):
    student, teacher = torch.randn(2, 3, *size), torch.randn(2, 3, *size)
    expected = np.abs(np.fft.fft2((teacher - student).double().numpy(), norm='ortho')).mean()
    assert FourierLoss()(student, teacher, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_by_hand():
    # Of ones only frequency 0 is left: |F| = 4 / 2 there, mean over four frequencies 1/2. An impulse: 1/2 everywhere.
    zero = torch.zeros(1, 1, 2, 2)
    impulse = zero.clone()
    impulse[..., 0, 0] = 1
    assert FourierLoss()(torch.ones(1, 1, 2, 2), zero, zero).item() == pytest.approx(0.5)
    assert FourierLoss()(impulse, zero, zero).item() == pytest.approx(0.5)


def test_the_gradient_is_finite_where_spectra_touch():
    student = torch.ones(1, 1, 4, 4, requires_grad=True)  # all other frequencies of the difference are exactly 0
    FourierLoss()(student, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).backward()
    assert torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0

"""What holds for every registered distillation loss, and for their base class."""

import inspect

import pytest
import torch
from mmengine.config import Config

from slimdiff.models.losses import DistillationLoss, SpatialLoss
from slimdiff.models.losses.distillation import parse_taps, resize
from slimdiff.registry import LOSSES

LOSSES.import_from_location()
ALL = sorted(name for name, cls in LOSSES.module_dict.items()
             if inspect.isclass(cls) and issubclass(cls, DistillationLoss))
SETTINGS = [dict(), dict(relative=True)]


def test_the_shipped_ones_are_registered():
    assert {'FourierLoss', 'SpatialLoss', 'SpectralLoss', 'WaveletBandLoss'} <= set(ALL)


@pytest.fixture(params=[(name, settings) for name in ALL for settings in SETTINGS], ids=str)
def loss(request):
    name, settings = request.param
    return LOSSES.build(dict(type=name, **settings))


@pytest.fixture
def maps():
    return torch.randn(2, 5, 8, 8), torch.randn(2, 5, 8, 8), torch.randn(2, 3, 16, 16)


def test_zero_at_equality_with_zero_gradient(loss, maps):
    teacher = maps[0]
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher, maps[2])
    value.backward()
    assert value.shape == () and value.item() == pytest.approx(0, abs=1e-7)
    assert student.grad.norm().item() == pytest.approx(0, abs=1e-7)


def test_positive_with_finite_gradient_for_the_student_alone(loss, maps):
    student, teacher, x0 = (x.clone().requires_grad_() for x in maps)
    value = loss(student, teacher, x0)
    value.backward()
    assert value > 0 and torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0
    assert teacher.grad is None and x0.grad is None


def test_gradient_against_finite_differences(loss, maps):
    student, teacher, x0 = (x[:1, :2].double() for x in maps)
    student = student.clone().requires_grad_()
    # forward() compares in float32; compare() itself computes in what it is given.
    small = resize(x0, (8, 8))
    assert torch.autograd.gradcheck(lambda s: loss.compare(s, teacher, small), student, eps=1e-6, atol=1e-5)


def test_bf16_maps_under_autocast_are_compared_in_float32(loss, maps):
    student, teacher, x0 = maps
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(student, teacher, x0)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(student.float(), teacher.float(), x0), rtol=1e-6, atol=1e-7)
    mixed = loss(student, teacher.float(), x0)  # a bf16 student, and a teacher in full precision
    torch.testing.assert_close(mixed, value, rtol=1e-6, atol=1e-7)


def test_float16_values_that_squared_would_overflow(loss):
    value = loss(torch.full((1, 1, 4, 4), 6e4).half(), torch.full((1, 1, 4, 4), -6e4).half(), torch.randn(1, 3, 4, 4))
    assert torch.isfinite(value)


def test_memory_format_does_not_matter(loss, maps):
    last = [x.to(memory_format=torch.channels_last) for x in maps]
    torch.testing.assert_close(loss(*last), loss(*maps))


def test_a_config_survives_dump_and_reload(loss, tmp_path):
    config = dict(type=type(loss).__name__, tap=['output', 'up1'], weight=0.25, relative=True)
    Config(dict(model=dict(losses=[config]))).dump(tmp_path / 'dumped.py')
    again = LOSSES.build(Config.fromfile(tmp_path / 'dumped.py').model.losses[0])
    assert (type(again), again.weight, again.relative) == (type(loss), 0.25, True)
    assert again.taps == {'output': 'output', 'up1': 'up1'}


@pytest.mark.parametrize('name', ALL)
def test_negative_weight(name):
    with pytest.raises(ValueError, match=rf'{name}: weight \(the lambda of the loss\) must be at least 0, got -0.1'):
        LOSSES.build(dict(type=name, weight=-0.1))
    with pytest.raises(ValueError, match='got nan'):
        LOSSES.build(dict(type=name, weight=float('nan')))
    assert LOSSES.build(dict(type=name, weight=0)).weight == 0


@pytest.mark.parametrize('name', ALL)
def test_names_for_the_log_do_not_contain_loss(name):
    assert 'loss' not in LOSSES.build(dict(type=name)).name  # mmengine would add it to the loss


def test_names():
    assert SpatialLoss().name == 'spatial'
    assert LOSSES.build(dict(type='WaveletBandLoss')).name == 'wavelet_band'


@pytest.mark.parametrize('tap, expected', [
    ('up1', {'up1': 'up1'}), (['output', 'mid'], {'output': 'output', 'mid': 'mid'}), (('up1', ), {'up1': 'up1'}),
    (dict(up1='up_blocks.1'), {'up1': 'up_blocks.1'}),
])
def test_parse_taps(tap, expected):
    assert parse_taps(tap) == expected


@pytest.mark.parametrize('tap', [[], {}, '', [1], {'up1': None}])
def test_taps_that_are_none(tap):
    with pytest.raises(ValueError, match="tap: got .*; give 'output'"):
        parse_taps(tap)


def test_resize():
    x = torch.arange(16.).view(1, 1, 4, 4)
    assert resize(x, (4, 4)) is x
    # Antialiased bilinear to half the size weighs 1, 3, 3, 1 in each direction; ramps stay ramps in the mean.
    half = resize(x, (2, 2))
    assert torch.equal(resize(x.bfloat16(), (2, 2)), half)
    assert half.shape == (1, 1, 2, 2) and half.mean().item() == pytest.approx(x.mean().item())
    checkerboard = (-1.)**(torch.arange(8)[:, None] + torch.arange(8)).view(1, 1, 8, 8)
    assert resize(checkerboard, (4, 4)).abs().max() < 0.05  # no aliasing: the finest pattern is gone

"""The page's code blocks run as a reader would run them: a file, a trial, and a config of three lines."""

import re
import sys
from pathlib import Path

import pytest
import torch

from slimdiff.configuration import check_config, load_config
from slimdiff.registry import LOSSES, MODELS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/en/advanced/write_a_distillation_loss.md'


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The reader's directory with both files in it, and the page's code blocks; unregistered afterwards."""
    module, trial, config = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.S | re.M)
    (tmp_path / 'my_loss.py').write_text(module)
    (tmp_path / 'cosine.py').write_text(config)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    LOSSES.import_from_location()
    yield module, trial
    LOSSES.module_dict.pop('CosineLoss', None)
    sys.modules.pop('my_loss', None)


def test_class_and_trial(reader):
    module, trial = reader
    namespace = {'__name__': 'my_loss'}
    for text in (module, trial):
        exec(compile(text, PAGE.name, 'exec'), namespace)
    student, teacher = torch.randn(2, 5, 4, 4, requires_grad=True), torch.randn(2, 5, 4, 4)
    value = namespace['CosineLoss'](power=2.0)(student, teacher, torch.zeros(2, 3, 8, 8))
    cosine = (student * teacher).sum(1) / student.norm(dim=1) / teacher.norm(dim=1)
    torch.testing.assert_close(value, (1 - cosine).square().mean())
    value.backward()
    assert torch.isfinite(student.grad).all()


def test_config(reader, tmp_path):
    from slimdiff import UNet
    cfg = load_config('cosine.py')
    check_config(cfg)
    assert len(cfg.model.losses) == 1
    # A teacher of its size with random weights: the test needs no trained one.
    stages = [dict(channels=16, blocks=1), dict(channels=32, blocks=1, downsample=False)]
    UNet(sample_size=16, stages=stages, norm_groups=4, num_classes=12).save_pretrained(tmp_path / 'teacher')
    cfg.model.teacher.checkpoint = str(tmp_path / 'teacher')
    model = MODELS.build(cfg.model)
    losses = model(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))
    assert list(losses) == ['loss', 'denoising', 'cosine_mid', 'cosine_up1']
    losses['loss'].backward()
    assert model.projections['up1'].weight.grad.any()


def test_the_class_is_about_twenty_lines(reader):
    assert len([line for line in reader[0].splitlines() if line.strip()]) <= 20

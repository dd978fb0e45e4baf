"""The page's code blocks run as a reader would run them: a file, a trial, and a config."""

import re
import sys
from pathlib import Path

import pytest
import torch

from slimdiff.configuration import check_config, load_config
from slimdiff.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/en/advanced/bring_your_backbone.md'


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The reader's directory with both files in it, and the page's code blocks; unregistered afterwards."""
    module, trial, config = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.S | re.M)
    (tmp_path / 'my_backbone.py').write_text(module)
    (tmp_path / 'distilled.py').write_text(config)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    MODELS.import_from_location()
    yield module, trial
    MODELS.module_dict.pop('TwoConvolutions', None)
    sys.modules.pop('my_backbone', None)


def test_class_and_trial(reader):
    module, trial = reader
    namespace = {'__name__': 'my_backbone'}
    for text in (module, trial):
        exec(compile(text, PAGE.name, 'exec'), namespace)
    # The body of the class: constructor and forward.
    lines = [line for line in module[module.index('class '):].splitlines() if line.strip()]
    assert len(lines) <= 20


def test_config(reader):
    cfg = load_config('distilled.py')
    check_config(cfg)
    model = MODELS.build(cfg.model)
    model.seed_step(0)
    losses = model(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), mode='loss')
    losses['loss'].backward()
    assert {'spatial_output', 'spatial_body'} < set(losses)
    assert model.unet.network.body[0].weight.grad.abs().sum() > 0

"""The page's code blocks run as a reader would run them: a file, a trial, and a config of three lines."""

import re
import sys
from pathlib import Path

import pytest
import torch

from slimdiff.configuration import check_config, load_config
from slimdiff.registry import MODELS, RESAMPLERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/en/advanced/write_a_downsampler.md'


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The reader's directory with both files in it, and the page's code blocks; unregistered afterwards."""
    blocks = re.findall(r'^```python\n(.*?)^```', PAGE.read_text(), re.S | re.M)
    module, *trials, config = blocks
    assert config.startswith('_base_') and len(trials) == 2
    (tmp_path / 'my_downsampler.py').write_text(module)
    (tmp_path / 'blur_down.py').write_text(config)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    RESAMPLERS.import_from_location()
    yield module, trials
    RESAMPLERS.module_dict.pop('BlurDown', None)
    sys.modules.pop('my_downsampler', None)


def test_class_and_trial(reader):
    module, trials = reader
    namespace = {'__name__': 'my_downsampler'}
    for text in (module, *trials):
        exec(compile(text, PAGE.name, 'exec'), namespace)
    # A constant image stays constant in the interior: the filter sums to one.
    down = namespace['BlurDown'](1)
    torch.nn.init.ones_(down.project.weight)
    torch.nn.init.zeros_(down.project.bias)
    assert torch.allclose(down(torch.full((1, 1, 8, 8), 3.))[..., 1:, 1:], torch.tensor(3.))
    with pytest.raises(ValueError, match='BlurDown input: got height 5'):
        down(torch.zeros(1, 1, 5, 4))


def test_config(reader):
    cfg = load_config('blur_down.py')
    check_config(cfg)
    model = MODELS.build(cfg.model)
    kinds = {type(m).__name__ for m in model.unet.modules()}
    assert 'BlurDown' in kinds and 'WaveletGatedDown' not in kinds and 'WaveletGatedUp' in kinds
    losses = model(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), mode='loss')
    losses['loss'].backward()
    assert model.unet.down1.downsampler.project.weight.grad is not None


def test_the_class_is_about_twenty_lines(reader):
    lines = [line for line in reader[0].splitlines() if line.strip()]
    assert len(lines) <= 22

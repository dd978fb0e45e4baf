"""Sample grids and spectra."""

import pytest
import tiny_run
import torch
from PIL import Image

from slimdiff.engine.hooks.spectrum_plot import mean_spectrum


def test_pictures_do_not_change_training(tmp_path):
    tiny_run.build(tmp_path / 'a', max_iters=6).train()
    pictures = dict(samples=dict(type='SampleGridHook', interval=4, num_images=4))
    tiny_run.build(tmp_path / 'b', max_iters=6, custom_hooks=list(pictures.values())).train()
    assert tiny_run.trace(tmp_path / 'a') == tiny_run.trace(tmp_path / 'b')
    assert sorted(p.name for p in (tmp_path / 'b/samples').iterdir()) == ['iter_4.png', 'iter_6.png']
    image = Image.open(tmp_path / 'b/samples/iter_6.png')
    assert image.size == (18, 18)  # 2 x 2 images of 8 and a gap of 2
    # The averaged weights: the model's `sample` paints the first ones.
    state = torch.load(tmp_path / 'b/iter_6.pth', weights_only=True)
    expected = (state['ema']['state_dict']['unet.0.weight'][:3, 0].clamp(-1, 1) + 1) * 127.5
    assert list(image.getpixel((0, 0))) == pytest.approx(expected.round().int().tolist())


def test_mean_spectrum_of_white_noise_is_flat():
    torch.manual_seed(0)
    frequencies, power = mean_spectrum(torch.randn(256, 3, 32, 32))
    assert frequencies[0] == 1 / 32 and frequencies[-1] == 0.5
    torch.testing.assert_close(power, torch.ones(16), rtol=0.05, atol=0)


def test_spectrum_plot(tmp_path):
    """Real images of a dataset, generated ones of a model: the file is a picture."""
    runner = tiny_run.build(tmp_path, custom_hooks=[dict(type='SpectrumPlotHook', interval=3, num_images=4)])
    hook = next(h for h in runner.hooks if type(h).__name__ == 'SpectrumPlotHook')
    hook._real = torch.randn(4, 3, 8, 8)
    runner.train()
    assert [Image.open(p).size for p in sorted((tmp_path / 'spectra').iterdir())] == [(500, 500)] * 4


def test_a_picture_is_not_worth_the_training(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('slimdiff.engine.hooks.sample_grid.save_grid', refuse)
    runner = tiny_run.build(tmp_path, max_iters=4, custom_hooks=[dict(type='SampleGridHook', interval=2)])
    runner.train()
    log = next((tmp_path / runner.timestamp).glob('*.log')).read_text()
    assert log.count('could not be written: [Errno 28] No space left on device. Training goes on.') == 2

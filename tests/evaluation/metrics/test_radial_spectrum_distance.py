import math

import pytest
import torch

from slimdiff.evaluation.metrics import RadialSpectrumDistance


def figures(real, generated):
    metric = RadialSpectrumDistance()
    metric.update(real, real=True)
    metric.update(generated, real=False)
    return metric.compute()


def test_a_gain_gives_its_log_power_ratio_with_sign():
    x = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.3
    for gain in (0.5, 2.0):
        found = figures(x, gain * x)
        for version in ('power', 'log'):
            for part in ('whole', 'top'):
                assert found[f'spectrum/{version}/{part}_signed'] == pytest.approx(2 * math.log(gain), abs=1e-3)
                assert found[f'spectrum/{version}/{part}'] == pytest.approx(abs(2 * math.log(gain)), abs=1e-3)


def test_a_low_pass_is_missing_power_in_the_top_half_only():
    x = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    spectrum = torch.fft.fft2(x)
    f = torch.fft.fftfreq(32)
    top = (torch.hypot(f[:, None], f[None]) * 32).round() >= 8
    halved = torch.fft.ifft2(torch.where(top, spectrum / math.sqrt(2), spectrum)).real
    found = figures(x, halved)
    assert found['spectrum/power/top_signed'] == pytest.approx(-math.log(2), abs=1e-3)
    # Sixteen rings, of which the upper nine (8 ... 16) lost half of their power.
    assert found['spectrum/power/whole_signed'] == pytest.approx(-math.log(2) * 9 / 16, abs=1e-3)


def test_the_two_versions_disagree_where_images_differ_in_texture():
    # A tenth of the images carries nearly all power: the mean spectrum sees them alone, the log spectrum does not.
    generator = torch.Generator().manual_seed(0)
    scale = torch.full((200, 1, 1, 1), 0.05)
    scale[:20] = 1.0
    real = scale * torch.randn(200, 3, 16, 16, generator=generator)
    loud = real.clone()
    loud[:20] *= 2
    found = figures(real, loud)
    assert found['spectrum/power/whole_signed'] == pytest.approx(math.log(4), abs=0.05)
    assert found['spectrum/log/whole_signed'] == pytest.approx(0.1 * math.log(4), abs=0.02)


def test_brightness_does_not_count_and_black_images_do_no_harm():
    x = torch.randn(10, 3, 8, 8) * 0.2
    assert figures(x, x + 0.4)['spectrum/power/whole'] == pytest.approx(0, abs=1e-4)
    assert math.isfinite(figures(x, torch.zeros_like(x))['spectrum/log/top'])


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match='one image size'):
        figures(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 16, 16))

import json
from pathlib import Path

import pytest
import torch

from slimdiff.datasets.photo_patches import PhotoPatches
from slimdiff.functional.spectrum import band_masks
from studies import schedules
from studies.schedules import BAND_NAMES, SCHEDULES, decided_steps, schedule_alphas

ROOT = Path(__file__).parents[2]


def test_schedules_are_the_papers():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(schedule_alphas('linear'), torch.cumprod(1 - betas, 0), rtol=1e-4, atol=1e-7)
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()
    torch.testing.assert_close(schedule_alphas('scaled_linear'), torch.cumprod(1 - betas, 0), rtol=1e-4, atol=1e-7)
    # Nichol & Dhariwal 2021, eq. 17: f(t) = cos^2((t / T + s) / (1 + s) pi / 2), s = 0.008.
    t = torch.arange(1, 901, dtype=torch.float64) / 1000
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2)**2
    f0 = torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2, dtype=torch.float64))**2
    torch.testing.assert_close(schedule_alphas('cosine')[:900], f / f0, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match='linear, scaled_linear, cosine'):
        schedule_alphas('cosin')


def test_measures_of_a_schedule_even_in_log_snr():
    """Where log SNR is spread evenly over [-L, L] for a flat spectrum, integrals give all three."""
    half, steps = 6.0, 4001
    ratio = torch.linspace(-half, half, steps, dtype=torch.float64).exp()
    alpha_bars = ratio.square() / (1 + ratio.square())
    flat = torch.ones(16, 16, dtype=torch.float64)
    seen = decided_steps(flat, alpha_bars)
    log10 = torch.tensor(10.0).log().item()
    torch.testing.assert_close(seen['window'], torch.full((3,), log10 / half, dtype=torch.float64), atol=1e-3, rtol=0)
    # The integral of 2 g = 1 / cosh(u) over the real line is pi.
    torch.testing.assert_close(seen['weight'], torch.full((3,), torch.pi / (2 * half), dtype=torch.float64),
                               atol=1e-3, rtol=0)
    torch.testing.assert_close(seen['allotment'], torch.full((3,), 1 / 3, dtype=torch.float64))


def test_allotments_add_up_and_follow_the_snr():
    """Two groups of steps, each at SNR = 1 of one band: half of the steps belongs to each, the third gets nothing."""
    masks = band_masks(16, 16, schedules.BAND_EDGES)
    spectrum = (masks * torch.tensor([1e6, 1.0, 1e-6], dtype=torch.float64)[:, None, None]).sum(0)
    low, top = 1 / (1 + 1e6), 1 / (1 + 1e-6)  # a S = 1 - a
    seen = decided_steps(spectrum, torch.tensor([low, top] * 10, dtype=torch.float64))
    torch.testing.assert_close(seen['allotment'], torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen['window'], torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(seen['weight'], torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64), atol=3e-3, rtol=0)
    with pytest.raises(ValueError, match=r'window: got \(2, 1\)'):
        decided_steps(spectrum, torch.tensor([0.5]), window=(2, 1))


def test_half_recovered_by_hand():
    """A flat spectrum S is half recovered where a S = 1 - a."""
    result = schedules.compare_schedules(torch.full((16, 16), 0.1, dtype=torch.float64))
    for name in SCHEDULES:
        alpha_bars = schedule_alphas(name)
        row = result['schedules'][name]
        assert row['half']['top'] == int((alpha_bars * 0.1 >= 1 - alpha_bars).sum())
        assert sum(row['allotment'].values()) == pytest.approx(1, abs=1e-3)
        assert list(row['window']) == list(BAND_NAMES)


def test_mean_spectrum_by_parseval():
    dataset = PhotoPatches(image_size=16, split='train')
    spectrum = schedules.mean_spectrum(dataset, 60)
    images = torch.stack([dataset[i]['inputs'] for i in range(60)]).double()
    assert spectrum.sum().item() == pytest.approx(images.square().sum((2, 3)).mean().item())
    # Photographs: power falls with frequency.
    bands = schedules.band_means(spectrum)
    assert bands[0] > 10 * bands[1] > 20 * bands[2]


def test_command(tmp_path, run_tool):
    done = run_tool('analysis_tools/noise_schedules.py', '--out', tmp_path / 'out', '--image-sizes', 16,
                    '--num-images', 36)
    assert '| PhotoPatches 16 px | cosine |' in done.stdout
    result = json.loads((tmp_path / 'out/noise_schedules.json').read_text())
    assert set(result['data']['PhotoPatches 16 px']['schedules']) == set(SCHEDULES)
    assert (tmp_path / 'out/noise_schedules.png').stat().st_size > 5000
    assert 'too large' in run_tool('analysis_tools/noise_schedules.py', '--image-sizes', 4000, status=2).stderr


def test_the_committed_numbers_say_what_the_page_says():
    """Cosine spends more steps on the top band than either linear schedule, by all three measures."""
    result = json.loads((ROOT / 'benchmarks/results/noise_schedules.json').read_text())
    for data in result['data'].values():
        for measure in ('window', 'weight', 'allotment'):
            top = {name: row[measure]['top'] for name, row in data['schedules'].items()}
            assert top['cosine'] > 1.5 * max(top['linear'], top['scaled_linear'])
    assert (ROOT / 'docs/en/_static/noise_schedules.png').is_file()

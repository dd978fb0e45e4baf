"""How many steps a noise schedule spends where high frequencies are decided (Yang et al. 2023, supplement, section 2).

The supplement says that the cosine schedule favours high frequencies because it has more steps near the clean image.
For a linear denoiser that can be computed: at frequency f with power S(f), step t has the amplitude ratio
SNR = sqrt(a S / (1 - a)) and the recovered share r = SNR^2 / (1 + SNR^2) (:mod:`studies.wiener`). Where
SNR is far above 1 the frequency is known already, where it is far below nothing can be said of it yet. Three measures
of the steps in between, each an average over all the training timesteps, which a sampler visits evenly:

- **window**: share of steps with 0.1 <= SNR <= 10, that is between 1 % and 99 % recovered.
- **weight**: mean of 2 g(SNR); 1 if every step were at SNR = 1, where g has its maximum of 1/2.
- **allotment**: every step is divided among the bands in proportion to their mean g^2, which is half the rate
  dr / d log SNR at which they are decided. The bands' allotments add up to 1.

Per-frequency values are averaged over the coefficients of a band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from slimdiff.evaluation.figures import save_figure
from slimdiff.evaluation.record import rounded
from slimdiff.functional.spectrum import band_masks, power_spectrum
from slimdiff.sampling import build_scheduler
from studies.wiener import g, recovered_share, snr

#: Arguments of DDPMScheduler. 'scaled_linear' is what LDM calls linear, with its teachers' betas.
SCHEDULES = dict(
    linear=dict(beta_schedule='linear', beta_start=1e-4, beta_end=0.02),
    scaled_linear=dict(beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195),
    cosine=dict(beta_schedule='squaredcos_cap_v2'))

BAND_EDGES = (0.125, 0.25)
BAND_NAMES = ('low', 'mid', 'top')
WINDOW = (0.1, 10.0)


def schedule_alphas(name: str) -> Tensor:
    """Cumulative alphas of one of :data:`SCHEDULES`, (1000,) float64.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule: there is no '{name}'. Known: {', '.join(SCHEDULES)}.")
    return build_scheduler(dict(type='DDPMScheduler', **SCHEDULES[name])).alphas_cumprod.double()


def mean_spectrum(dataset: Dataset, count: int) -> Tensor:
    """Mean of |F x|^2 over the first ``count`` images and their channels, (H, W) float64, FFT order."""
    total = 0.0
    for start in range(0, count, 500):
        images = torch.stack([dataset[i]['inputs'] for i in range(start, min(start + 500, count))])
        total = total + power_spectrum(images.double()).mean(1).sum(0)
    return total / count


def band_means(values: Tensor, edges: Sequence[float] = BAND_EDGES) -> Tensor:
    """Mean over the coefficients of each band, (..., H, W) -> (..., B)."""
    masks = band_masks(*values.shape[-2:], edges)
    return torch.stack([values[..., mask].mean(-1) for mask in masks], -1)


def decided_steps(spectrum: Tensor, alpha_bars: Tensor, edges: Sequence[float] = BAND_EDGES,
                  window: tuple[float, float] = WINDOW) -> dict[str, Tensor]:
    """Window, weight and allotment of every band, each (B,).

    Args:
        spectrum: (H, W), FFT order, orthonormal DFT, in the units the schedule works on (images in [-1, 1]).
        alpha_bars: (T,), cumulative alphas of all steps.
        edges: of the bands, cycles per pixel.
        window: amplitude ratios between which a frequency counts as being decided.

    Raises:
        ValueError: a window that is not 0 < low < high.
    """
    if not 0 < window[0] < window[1]:
        raise ValueError(f'window: got {window}; give two amplitude ratios with 0 < low < high, e.g. (0.1, 10).')
    ratio = snr(spectrum, alpha_bars.view(-1, 1, 1))  # (T, H, W)
    inside = ((ratio >= window[0]) & (ratio <= window[1])).double()
    rate = band_means(g(ratio).square(), edges)  # (T, B)
    return dict(window=band_means(inside, edges).mean(0), weight=band_means(2 * g(ratio), edges).mean(0),
                allotment=(rate / rate.sum(1, keepdim=True)).mean(0))


def compare_schedules(spectrum: Tensor) -> dict[str, Any]:
    """:func:`decided_steps` under each schedule, and curves of the recovered share.

    Returns:
        ``spectrum`` (mean power of each band) and for each schedule, by band: ``window``, ``weight``, ``allotment``,
        ``half`` (first timestep, counted from the clean end, at which less than half of the band's power is
        recovered; 1,000 if none), ``recovered`` (every tenth timestep).
    """
    result: dict[str, Any] = dict(spectrum=dict(zip(BAND_NAMES, rounded(band_means(spectrum)))), schedules={})
    for name in SCHEDULES:
        alpha_bars = schedule_alphas(name)
        recovered = band_means(recovered_share(snr(spectrum, alpha_bars.view(-1, 1, 1))))  # (T, B)
        row = {key: dict(zip(BAND_NAMES, rounded(value))) for key, value in decided_steps(spectrum, alpha_bars).items()}
        row['half'] = dict(zip(BAND_NAMES, (recovered >= 0.5).sum(0).tolist()))
        row['recovered'] = dict(zip(BAND_NAMES, rounded(recovered[::10].t(), 4)))
        result['schedules'][name] = row
    return result


def schedule_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown table of the top band: one row for each data set and schedule."""
    lines = ['| data | schedule | window | weight | allotment | half recovered at t |', '|---|---|---|---|---|---|']
    for data, result in results.items():
        for name, row in result['schedules'].items():
            values = ' | '.join(f'{100 * row[key]["top"]:.1f} %' for key in ('window', 'weight', 'allotment'))
            lines.append(f'| {data} | {name} | {values} | {row["half"]["top"]} |')
    return '\n'.join(lines) + '\n'


def plot_schedules(results: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Noise level, recovered share of the lowest and the top band for the first data set, and the three measures."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    title, first = next(iter(results.items()))
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout='constrained')
    for i, name in enumerate(SCHEDULES):
        axes[0].plot((1 - schedule_alphas(name)).sqrt(), color=f'C{i}', label=name)
        for style, band in (('--', 'low'), ('-', 'top')):
            axes[1].plot(range(0, 1000, 10), first['schedules'][name]['recovered'][band], style, color=f'C{i}',
                         label=f'{name}, {band}')
    axes[0].set(xlabel='timestep', title='standard deviation of the noise')
    axes[1].set(xlabel='timestep', title=f'share recovered by a linear denoiser, {title}')
    measures = ('window', 'weight', 'allotment')
    for i, name in enumerate(SCHEDULES):
        for j, (data, result) in enumerate(results.items()):
            x = [k + (i * len(results) + j - (len(SCHEDULES) * len(results) - 1) / 2) * 0.8
                 / (len(SCHEDULES) * len(results)) for k in range(len(measures))]
            axes[2].bar(x, [result['schedules'][name][m]['top'] for m in measures],
                        0.8 / (len(SCHEDULES) * len(results)), color=f'C{i}',
                        alpha=1 - 0.6 * j / max(len(results), 2), label=f'{name}, {data}')
    axes[2].set_xticks(range(len(measures)), measures)
    axes[2].set(title='steps for the top band')
    for axis in axes:
        axis.title.set_fontsize(10)
        axis.legend(fontsize=6)
        axis.grid(alpha=0.3)
    save_figure(figure, path, dpi=100)
    plt.close(figure)

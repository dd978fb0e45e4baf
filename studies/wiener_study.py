"""The Wiener filter measured: trained against closed form, error against SNR, low frequencies first; and its figure."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimdiff.checkpoint import read_json, write_json
from slimdiff.checkpoint.same import as_json, require_same
from slimdiff.evaluation.figures import save_figure
from slimdiff.evaluation.record import rounded
from slimdiff.functional.spectrum import num_rings, radial_bins, radial_frequency
from slimdiff.progress import Progress
from slimdiff.sampling import build_scheduler
from studies import wiener
from studies.wiener import CircularFilter

#: Share of the signal's power held by the band over which the relative error is taken.
BAND_SHARE = 0.95


def ring_means(values: Tensor) -> Tensor:
    """Average over each ring but zero frequency, (..., size, size) -> (..., size // 2)."""
    size = values.shape[-1]
    bins, rings = radial_bins(size, size), num_rings(size, size)
    return torch.stack([values[..., bins == ring].mean(-1) for ring in range(1, rings)], -1)


@torch.no_grad()
def measure_filter(model: CircularFilter, spectrum: Tensor, alpha_bars: Tensor, count: int = 1000,
                   seed: int = 0) -> tuple[Tensor, Tensor]:
    """Errors of a filter on new Gaussian fields, by frequency, both (T, size, size).

    Returns:
        Mean squared error of eps, and of x0 relative to the spectrum.
    """
    generator = torch.Generator().manual_seed(seed)
    a = alpha_bars.float().view(-1, 1, 1, 1)
    noise_power = signal_power = 0.0
    for chunk in torch.arange(count).split(250):
        x0 = wiener.gaussian_field(spectrum, len(chunk), generator)
        eps = torch.randn(x0.shape, generator=generator)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
        predicted = model(x_t)
        restored = (x_t - (1 - a).sqrt() * predicted) / a.sqrt()
        noise_power = noise_power + torch.fft.fft2(predicted - eps, norm='ortho').abs().double().square().sum(1)
        signal_power = signal_power + torch.fft.fft2(restored - x0, norm='ortho').abs().double().square().sum(1)
    return noise_power / count, signal_power / count / spectrum


def crossing(frequency: Tensor, share: Tensor) -> float | None:
    """First frequency at which a falling share passes 1/2, None where it does not.

    Between two frequencies the log odds of the share are linear in log f, as they are for 1/f^beta.
    """
    odds = share.clamp(1e-9, 1 - 1e-9).logit()
    for i in range(1, len(odds)):
        if odds[i - 1] >= 0 > odds[i]:
            part = odds[i - 1] / (odds[i - 1] - odds[i])
            logs = frequency[i - 1:i + 1].log()
            return math.exp(logs[0] + part * (logs[1] - logs[0]))
    return None


def run_wiener(path: str | Path, betas: Sequence[float] = (1.0, 2.0, 3.0),
               timesteps: Sequence[int] = (50, 150, 300, 450, 600), seeds: Sequence[int] = (0, 1, 2), size: int = 32,
               iterations: int = 2000, batch_size: int = 64, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Train filters on 1/f^beta fields, one for each timestep of DDPM's linear schedule, and hold them to the formulas.

    Args:
        path: JSON file, written after each (beta, seed); those it holds of the same setting are not trained again.
        betas: slopes of the power spectrum.
        timesteps: of 1,000.
        seeds: of a training run, each on fields of its own.
        size: of a field, pixels.
        iterations, batch_size: of a run; every field is seen with its noise and the noise's negative.
        extra: put at the head of the file.

    Returns:
        What the file holds: ``runs``, and for each beta (by name, '2.0') in ``betas``: ``relative_error[seed][t]`` over
        the band that holds 95 % of the power; ``snr``, ``error`` and ``closed_error``, [t][ring], the error of eps
        measured on new fields (first seed); ``recovered[t]`` and ``closed_recovered[t]``, the frequency to which half
        the power is recovered, cycles per pixel, None outside the plane. ``worst``: mean and standard deviation over
        seeds of the largest relative error of any timestep.

    Raises:
        ValueError: timesteps out of range, or ``path`` holds runs of another setting.
    """
    schedule = build_scheduler(dict(type='DDPMScheduler')).alphas_cumprod.double()
    if min(timesteps) < 0 or max(timesteps) >= len(schedule):
        raise ValueError(f'timesteps: got {list(timesteps)}; they must lie in 0..{len(schedule) - 1}.')
    path, alpha_bars = Path(path), schedule[list(timesteps)]
    setting = dict(timesteps=list(timesteps), size=size, iterations=iterations, batch_size=batch_size,
                   band_share=BAND_SHARE)
    result = dict(extra or {}, setting=setting, seeds=list(seeds), alpha_bars=rounded(alpha_bars, 6),
                  frequency=rounded(ring_means(radial_frequency(size, size))), runs={})
    if path.is_file():
        advice = 'Give another --out, or delete the file.'
        old = read_json(path, advice)
        require_same(old['setting'], as_json(setting), f'{path} holds runs of another setting', advice)
        result['runs'] = old['runs']
    todo = [(float(b), s) for b in betas for s in seeds if f'{float(b)}-seed{s}' not in result['runs']]
    with Progress(len(todo) * iterations, 'filters', unit='it') as progress:
        for beta, seed in todo:
            spectrum = wiener.power_law_spectrum(size, beta)
            start = time.monotonic()
            model = wiener.train_filter(spectrum, alpha_bars.tolist(), iterations, batch_size, seed=seed,
                                        on_step=progress.update)
            seconds = round(time.monotonic() - start, 1)
            result['runs'][f'{beta}-seed{seed}'] = dict(
                seconds=seconds, **compare_filter(model, spectrum, alpha_bars, seed + 10_000))
            write_json(path, result)
    result['betas'] = {str(float(b)): summarise_beta(result['runs'], float(b), seeds, size, alpha_bars) for b in betas}
    write_json(path, result)
    return result


def compare_filter(model: CircularFilter, spectrum: Tensor, alpha_bars: Tensor, seed: int) -> dict[str, Any]:
    """A trained filter against the closed form, and its errors on new fields, by timestep (and ring)."""
    frequency = ring_means(radial_frequency(*spectrum.shape))
    expected = wiener.noise_filter(spectrum, alpha_bars.view(-1, 1, 1))
    band = wiener.energy_band(spectrum, BAND_SHARE)
    noise, signal = measure_filter(model, spectrum, alpha_bars, seed=seed)
    return rounded(dict(relative_error=wiener.relative_error(model.response(), expected, band),
                        gain=ring_means(model.response().real), error=ring_means(noise),
                        recovered=[crossing(frequency, row) for row in 1 - ring_means(signal)]))


def summarise_beta(runs: Mapping[str, Any], beta: float, seeds: Sequence[int], size: int,
                   alpha_bars: Tensor) -> dict[str, Any]:
    """What :func:`run_wiener` says of one spectrum, over its seeds."""
    spectrum = wiener.power_law_spectrum(size, beta)
    ratio = wiener.snr(spectrum, alpha_bars.view(-1, 1, 1))
    rows = [runs[f'{beta}-seed{seed}'] for seed in seeds]
    worst = [max(row['relative_error']) for row in rows]
    scale = spectrum[0, 1].item() * (1 / size) ** beta
    return rounded(dict(
        band=int(wiener.energy_band(spectrum, BAND_SHARE).sum()),
        relative_error=[row['relative_error'] for row in rows],
        worst=dict(mean=statistics.fmean(worst), std=statistics.stdev(worst) if len(worst) > 1 else None),
        gain=rows[0]['gain'], closed_gain=ring_means(wiener.noise_filter(spectrum, alpha_bars.view(-1, 1, 1))),
        snr=ring_means(ratio), error=rows[0]['error'], closed_error=ring_means(wiener.noise_error(ratio)),
        recovered=rows[0]['recovered'],
        closed_recovered=wiener.recovered_frequency(alpha_bars, beta, scale)))


def wiener_table(result: dict[str, Any]) -> str:
    """Relative error of the trained filter, percent, as a Markdown table; ± is the standard deviation over seeds."""
    lines = ['| spectrum | ' + ' | '.join(f't = {t}' for t in result['setting']['timesteps']) + ' | worst timestep |',
             '|---|' + '---|' * (len(result['setting']['timesteps']) + 1)]
    for beta, values in result['betas'].items():
        columns = list(zip(*values['relative_error']))
        cells = [f'{100 * statistics.fmean(c):.2f}' for c in columns]
        spread = '' if values['worst']['std'] is None else f' ± {100 * values["worst"]["std"]:.2f}'
        lines.append(f'| 1/f^{beta} | ' + ' | '.join(cells) + f' | {100 * values["worst"]["mean"]:.2f}{spread} |')
    return '\n'.join(lines) + '\n'


def plot_wiener(result: dict[str, Any], path: str | Path, beta: str | None = None) -> None:
    """Gains, error against SNR, the recovered frequency over time.

    Args:
        beta: which spectrum the first panel shows; 2.0 if it is there, else the first.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    beta = beta or ('2.0' if '2.0' in result['betas'] else next(iter(result['betas'])))
    shown, frequency = result['betas'][beta], result['frequency']
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout='constrained')
    timesteps = result['setting']['timesteps']
    for i, t in enumerate(timesteps):
        axes[0].plot(frequency, shown['closed_gain'][i], color=f'C{i}', linewidth=1)
        axes[0].plot(frequency, shown['gain'][i], 'o', color=f'C{i}', markersize=3, label=f't = {t}')
    axes[0].set(xscale='log', yscale='log', xlabel='frequency (cycles per pixel)', ylabel='gain')
    axes[0].set_xticks([0.03, 0.1, 0.3], ['0.03', '0.1', '0.3'])
    axes[0].minorticks_off()
    axes[0].set_title(f'trained filter (dots) and closed form, 1/f^{beta}', fontsize=10)
    axes[0].legend(fontsize=7)

    ratio = torch.logspace(-2, 2, 200)
    axes[1].plot(ratio, wiener.noise_error(ratio), 'k-', linewidth=1, label='error of eps')
    axes[1].plot(ratio, wiener.signal_error(ratio), 'k--', linewidth=1, label='error of x0 / S')
    axes[1].plot(ratio, wiener.g(ratio), 'r-', linewidth=1, label='g (Eq. 14): geometric mean')
    for i, (name, values) in enumerate(result['betas'].items()):
        x = [v for row in values['snr'] for v in row]
        y = [v for row in values['error'] for v in row]
        axes[1].plot(x, y, '.', color=f'C{i}', markersize=3, label=f'trained, 1/f^{name}')
    axes[1].set(xscale='log', xlabel='SNR (amplitudes)', ylabel='mean squared error', xlim=(0.01, 100),
                ylim=(-0.03, 1.6))
    axes[1].set_title('error against SNR', fontsize=10)
    axes[1].legend(fontsize=7)

    a = build_scheduler(dict(type='DDPMScheduler')).alphas_cumprod.double()
    for i, (name, values) in enumerate(result['betas'].items()):
        exponent = float(name)
        # f^beta (1 - a) / a is the scale of the spectrum, whatever the timestep.
        scale = values['closed_recovered'][0] ** exponent * (1 - a[timesteps[0]]) / a[timesteps[0]]
        axes[2].plot(wiener.recovered_frequency(a, exponent, scale.item()), color=f'C{i}', linewidth=1,
                     label=f'1/f^{name}')
        points = [(t, f) for t, f in zip(timesteps, values['recovered']) if f is not None]
        axes[2].plot([t for t, _ in points], [f for _, f in points], 'o', color=f'C{i}', markersize=4)
    axes[2].axhline(0.5, color='k', linestyle=':', linewidth=1)
    axes[2].set(yscale='log', ylim=(0.5 / result['setting']['size'], 1), xlabel='timestep',
                ylabel='frequency (cycles per pixel)')
    axes[2].set_title('half the power is recovered up to', fontsize=10)
    axes[2].legend(fontsize=7)
    for axis in axes:
        axis.grid(alpha=0.3)
    save_figure(figure, path, dpi=100)
    plt.close(figure)

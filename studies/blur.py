"""How metrics answer to Gaussian blur (Yang et al. 2023, supplement, section 3.1 and figure 1).

A metric that should tell whether a small network loses high frequencies must rise when they are taken away on
purpose. Here blurred images A meet clean images B that are *other* images: a model never gives the reference images
themselves, so a metric's floor is clean A against clean B, not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from slimdiff.evaluation.evaluate import build_metrics, noise_floor, quantise
from slimdiff.evaluation.metrics import BandwiseDenoisingError, SetMetric
from slimdiff.functional.process import VariancePreserving
from slimdiff.functional.spectrum import power_spectrum

#: the supplement's list of variances, in square pixels; its kernel has 9 taps.
SIGMA2 = (0.1, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9, 1.0, 1.5, 2.0, 3.0, 5.0)


def gaussian_kernel(sigma2: float, size: int = 9, like: Tensor | None = None) -> Tensor:
    """Normalised Gaussian samples (size,); all in the centre for ``sigma2 = 0``.

    Raises:
        ValueError: a negative variance or an even size.
    """
    if sigma2 < 0 or size < 1 or size % 2 == 0:
        raise ValueError(f'Gaussian blur: sigma2={sigma2} must not be negative and size={size} must be odd.')
    distance = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-distance.square() / (2 * sigma2)) if sigma2 > 0 else (distance == 0).double()
    kernel = kernel / kernel.sum()
    return kernel if like is None else kernel.to(like)


def gaussian_blur(x: Tensor, sigma2: float, size: int = 9) -> Tensor:
    """Separable Gaussian blur of (N, C, H, W), borders reflected."""
    kernel, channels, pad = gaussian_kernel(sigma2, size, x), x.shape[1], size // 2
    x = F.pad(x, (pad, pad, pad, pad), mode='reflect')
    x = F.conv2d(x, kernel.view(1, 1, 1, size).expand(channels, 1, 1, size), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, size, 1).expand(channels, 1, size, 1), groups=channels)


class BlurredWiener(nn.Module):
    """The best linear denoiser for images of a known spectrum, its estimate of the clean image blurred.

    For x_t = sqrt(a) x0 + sqrt(1 - a) eps with E|F x0|^2 = S(f) and no knowledge beyond S, the estimate of least
    squared error is the filter sqrt(a) S / (a S + 1 - a) (Wiener 1949), and its noise estimate has the mean squared
    error a S / (a S + 1 - a) at each frequency. Blurring its estimate takes away high frequencies that it had got
    right: a stand-in, in closed form, for a network that fails to restore them. The schedule is DDPM's.

    Args:
        spectrum: S, (H, W) in FFT order, orthonormal DFT.
        sigma2: of the blur, square pixels.
        size: taps of the blur.
    """

    num_classes = None

    def __init__(self, spectrum: Tensor, sigma2: float = 0.0, size: int = 9) -> None:
        super().__init__()
        self.sigma2, self.size = sigma2, size
        self.register_buffer('spectrum', spectrum)
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        self.noise_process = VariancePreserving(torch.cumprod(1 - betas, 0))

    def coefficients(self, t: Tensor) -> Tensor:
        """alphas_cumprod at t, (N, 1, 1, 1) float32."""
        return self.noise_process.signal(t).float().view(-1, 1, 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        a = self.coefficients(t)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def predict_eps(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        a = self.coefficients(t)
        gain = a.sqrt() * self.spectrum / (a * self.spectrum + 1 - a)
        x0 = torch.fft.ifft2(torch.fft.fft2(x_t) * gain).real
        if self.sigma2 > 0:
            x0 = gaussian_blur(x0, self.sigma2, self.size)
        return (x_t - a.sqrt() * x0) / (1 - a).sqrt()


def stack_images(dataset: Any, indices: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) of a data set of ``dict(inputs=...)``."""
    return torch.stack([dataset[i]['inputs'] for i in indices])


def blur_sensitivity(dataset: Any,
                     metrics: Sequence[Mapping[str, Any] | SetMetric],
                     num_images: int = 2000,
                     sigma2: Sequence[float] = SIGMA2,
                     size: int = 9,
                     splits: int = 5,
                     paired: BandwiseDenoisingError | None = None,
                     progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measure every metric on blurred images.

    Args:
        dataset: with ``fresh_epochs``, or at least ``2 * num_images`` images.
        metrics: set metrics; image ``num_images + i`` of the data set is in the clean reference, image i is blurred.
        sigma2, size: of the blur, square pixels and taps.
        splits: of the floor: so many random halvings of all the clean images.
        paired: also the denoising error of a :class:`BlurredWiener` that knows the reference's spectrum. It is
            measured on the images themselves with common noise, so its floor is not real against real: it is the
            error without blur, and its spread the standard error.
        progress: gets a line for each variance.

    Returns:
        ``dict(sigma2=[...], curves={figure: [...]}, clean={figure: value}, floor={figure: dict(mean, std)})``, where
        ``clean`` is unblurred A against B.
    """
    metrics = [metric for metric in build_metrics(metrics) if isinstance(metric, SetMetric)]
    clean = stack_images(dataset, range(num_images))
    reference = stack_images(dataset, range(num_images, 2 * num_images))
    for metric in metrics:
        metric.reset()
        _update(metric, reference, real=True)
    spectrum = power_spectrum(reference).mean((0, 1))
    loader = DataLoader(dataset, batch_size=100)

    def measure(variance: float) -> dict[str, float]:
        figures: dict[str, float] = {}
        blurred = quantise(gaussian_blur(clean, variance, size)) if variance > 0 else clean
        for metric in metrics:
            _update(metric, blurred, real=False)
            figures |= metric.compute()
            metric.reset_generated()
        if paired is not None:
            figures |= paired.evaluate(BlurredWiener(spectrum, variance, size), loader)
        return figures

    baseline = measure(0.0)
    floor = noise_floor(loader, metrics, num_images, num_images, splits, progress=False)
    floor |= {name: dict(mean=value, std=baseline[f'{name}_stderr'])
              for name, value in baseline.items() if f'{name}_stderr' in baseline}
    rows = []
    for variance in sigma2:
        rows.append(measure(variance))
        progress(f'sigma^2 = {variance}: ' + ', '.join(f'{name} {rows[-1][name]:.4g}' for name in list(floor)[:4]))
    curves = {name: [row[name] for row in rows] for name in floor}
    return dict(sigma2=list(sigma2), curves=curves, clean={name: baseline[name] for name in floor}, floor=floor)


def _update(metric: SetMetric, images: Tensor, real: bool) -> None:
    for batch in images.split(250):
        metric.update(batch, real)


def blur_table(result: Mapping[str, Any], figures: Sequence[str], sigma2: Sequence[float]) -> str:
    """Markdown table of some figures at some variances, with their floors."""
    columns = [result['sigma2'].index(value) for value in sigma2]
    lines = ['| figure | floor | ' + ' | '.join(f'σ² = {value:g}' for value in sigma2) + ' |',
             '|---|---|' + '---|' * len(columns)]
    for name in figures:
        floor, curve = result['floor'][name], result['curves'][name]
        lines.append(f'| `{name}` | {floor["mean"]:.3g} ± {floor["std"]:.2g} | '
                     + ' | '.join(f'{curve[i]:.3g}' for i in columns) + ' |')
    return '\n'.join(lines) + '\n'


def plot_blur_sensitivity(result: Mapping[str, Any], figures: Mapping[str, Sequence[str]], path: str) -> None:
    """Small multiples: one panel for each entry of ``figures`` (title: names), each curve with its floor.

    The floor is dashed, with a band of two standard deviations.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    columns = 3
    rows = -(-len(figures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.1 * columns, 3.1 * rows), squeeze=False,
                                layout='constrained')
    for axis in axes.flat[len(figures):]:
        axis.remove()
    for axis, (title, names) in zip(axes.flat, figures.items()):
        for i, name in enumerate(names):
            mean, std = result['floor'][name]['mean'], result['floor'][name]['std']
            axis.plot(result['sigma2'], result['curves'][name], 'o-', markersize=3, color=f'C{i}',
                      label=name.split('/', 1)[-1])
            axis.axhline(mean, linestyle='--', linewidth=1, color=f'C{i}')
            axis.axhspan(mean - 2 * std, mean + 2 * std, color=f'C{i}', alpha=0.15, linewidth=0)
        axis.set_xscale('log')
        axis.set_xticks([0.1, 0.3, 1, 3], ['0.1', '0.3', '1', '3'])
        if 'signed' not in title and 'denois' not in title:
            axis.set_yscale('log')
        axis.set_title(title, fontsize=10)
        axis.set_xlabel('blur variance (pixel²)', fontsize=9)
        axis.tick_params(labelsize=8)
        if len(names) > 1:
            axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)

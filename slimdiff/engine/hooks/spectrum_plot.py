"""Radial spectrum of real against generated images: which frequencies the model misses or invents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from slimdiff.engine.best_effort import best_effort
from slimdiff.engine.hooks.sample_grid import generate
from slimdiff.evaluation.common import takes_part
from slimdiff.functional.spectrum import radial_spectrum
from slimdiff.registry import HOOKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def mean_spectrum(images: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies (cycles per pixel) and the radial power spectrum averaged over images and channels.

    Zero frequency, the mean brightness, is left out.
    """
    power = radial_spectrum(images.float()).mean(dim=(0, 1))[1:]
    return torch.arange(1, len(power) + 1) / min(images.shape[-2:]), power


def plot_spectra(real: Tensor, generated: Tensor, title: str) -> Figure:
    """Two log-log spectra and, below, their ratio in decibel."""
    from matplotlib.figure import Figure  # late: it takes half a second to import
    figure = Figure(figsize=(5, 5), layout='constrained')
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    frequencies, real_power = mean_spectrum(real)
    _, power = mean_spectrum(generated)
    above.loglog(frequencies, real_power, label=f'real ({len(real)})', color='black')
    above.loglog(frequencies, power, label=f'generated ({len(generated)})', color='tab:red')
    above.set(ylabel='power', title=title)
    above.legend()
    below.semilogx(frequencies, 10 * torch.log10(power / real_power), color='tab:red')
    below.axhline(0, color='black', linewidth=0.8)
    below.set(xlabel='frequency (cycles per pixel)', ylabel='generated / real (dB)')
    return figure


@HOOKS.register_module()
class SpectrumPlotHook(Hook):
    """Write ``spectra/iter_N.png`` in the work dir every ``interval`` iterations and at the end.

    Args:
        interval: iterations between two plots.
        num_images: real ones (spread over the validation data, or the training data without any) and generated ones.
        seed, num_steps: of sampling.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1000, num_images: int = 64, seed: int = 0, num_steps: int | None = None) -> None:
        if interval < 1 or num_images < 1:
            raise ValueError(f'SpectrumPlotHook: interval={interval} and num_images={num_images} must be at least 1.')
        self.interval, self.num_images, self.seed, self.num_steps = interval, num_images, seed, num_steps
        self._real: Tensor | None = None

    def real_images(self, runner: Any) -> Tensor:
        """Read once and kept."""
        if self._real is None:
            loader = runner.train_dataloader if runner.val_loop is None else runner.val_dataloader
            dataset = loader.dataset
            picks = torch.linspace(0, len(dataset) - 1, min(self.num_images, len(dataset))).long().tolist()
            batch = loader.collate_fn([dataset[i] for i in picks])
            if 'inputs' in batch:
                self._real = batch['inputs'].float()
            else:  # encoded latents, and no validation data: what the first stage makes of them
                model = runner.unwrapped_model
                self._real = model.decode(model.autoencoder.scale(batch['latents'].to(model.device))).cpu()
        return self._real

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = batch_idx + 1
        if (done % self.interval == 0 or done == runner.max_iters) and takes_part(runner.model):
            from slimdiff.evaluation.figures import save_figure  # late: matplotlib
            generated = generate(runner, self.num_images, self.seed, num_steps=self.num_steps)
            runner.model.train()
            if generated is None:
                return
            figure = plot_spectra(self.real_images(runner), generated, f'iteration {done}')
            path = Path(runner.work_dir) / 'spectra' / f'iter_{done}.png'
            with best_effort(runner, path):
                save_figure(figure, path)

"""Radial-spectrum distance between image sets, with sign."""

from __future__ import annotations

import torch
from torch import Tensor

from slimdiff.evaluation.metrics.base import Rows, SetMetric
from slimdiff.functional.spectrum import radial_spectrum
from slimdiff.registry import METRICS

#: Variance of rounding to 8 bits, for values in [-1, 1]: (2 / 255)^2 / 12. Power below it is no content of an image.
QUANTISATION_POWER = (2 / 255)**2 / 12


def log_ratio_summary(log_ratio: Tensor) -> dict[str, float]:
    """Root mean square and mean of a log power ratio (rings,), over all rings and over the upper half of them."""
    top = log_ratio[len(log_ratio) // 2:]
    return {
        'whole': log_ratio.square().mean().sqrt().item(),
        'whole_signed': log_ratio.mean().item(),
        'top': top.square().mean().sqrt().item(),
        'top_signed': top.mean().item(),
    }


@METRICS.register_module()
class RadialSpectrumDistance(SetMetric):
    """Log-ratio of the radial power spectra of generated and real images, zero frequency left out.

    Two versions, because they disagree: ``power`` takes the logarithm of the *mean* spectrum (ruled by the images
    with most texture), ``log`` the mean of each image's *logarithm* (ruled by the smooth ones). For each, over the
    whole range and over the top half of the frequencies (a quarter of a cycle per pixel and up): the root mean square
    over rings, and with ``_signed`` the mean. Natural logarithm: -0.1 says that a tenth of the power is missing,
    +0.1 that there is a tenth too much.

    Args:
        prefix: of the names of the figures.
    """

    minimum = 1

    def __init__(self, prefix: str = 'spectrum') -> None:
        super().__init__()
        self.prefix = prefix

    def statistics(self, images: Tensor) -> Rows:
        if min(images.shape[-2:]) < 4:
            raise ValueError('RadialSpectrumDistance needs images of at least 4 pixels a side, got '
                             f'{tuple(images.shape[-2:])}.')
        return dict(power=radial_spectrum(images).mean(1)[:, 1:])

    def distance(self, real: Rows, generated: Rows) -> dict[str, float]:
        reference, power = real['power'].double(), generated['power'].double()
        if reference.shape[1] != power.shape[1]:
            raise ValueError(f'RadialSpectrumDistance: real images have {reference.shape[1]} rings and generated ones '
                             f'{power.shape[1]}. Evaluate at one image size.')
        power, reference = power + QUANTISATION_POWER, reference + QUANTISATION_POWER
        ratios = {
            'power': torch.log(power.mean(0) / reference.mean(0)),
            'log': power.log().mean(0) - reference.log().mean(0),
        }
        return {
            f'{self.prefix}/{version}/{name}': value
            for version, ratio in ratios.items() for name, value in log_ratio_summary(ratio).items()
        }

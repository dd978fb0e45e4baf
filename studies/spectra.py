"""Mean reduced spectra of image sets (Yang et al. 2023, supplement, section 3.4 and figure 3).

The two-dimensional power spectrum of an image is averaged over rings of equal frequency, the curves of a set over its
images. The set's curve is then looked at relative to that of real images: below one, power is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slimdiff.evaluation.metrics.spectrum import QUANTISATION_POWER
from slimdiff.evaluation.record import rounded
from slimdiff.functional.spectrum import radial_spectrum

#: two-sided 95 % of a normal distribution, in standard errors
CONFIDENCE = 1.96
VERSIONS = ('power', 'log')


@dataclasses.dataclass(frozen=True)
class ReducedSpectra:
    """Reduced spectra of the images of a set.

    Args:
        power: (N, R) float64, ring k of it at ``frequencies[k]``; zero frequency, the brightness, is left out.
        frequencies: (R,) cycles per pixel.
        strata: (N,) class of each image, if the set has a fixed share of each class: errors of means then come from
            the spread within the classes only.
    """
    power: Tensor
    frequencies: Tensor
    strata: Tensor | None = None

    def __len__(self) -> int:
        return len(self.power)

    @property
    def mean(self) -> Tensor:
        return self.power.mean(0)

    @property
    def std(self) -> Tensor:
        """Spread over the images, (R,)."""
        return self.power.std(0)

    @property
    def stderr(self) -> Tensor:
        """Standard error of the mean, (R,)."""
        return self.variance_of_mean(self.power).sqrt()

    def variance_of_mean(self, values: Tensor) -> Tensor:
        """Of values (N, ...) that belong to the images; with strata sum_k (n_k / N)^2 s_k^2 / n_k."""
        n = len(values)
        if self.strata is None:
            return values.var(0) / n
        groups = [values[self.strata == k] for k in self.strata.unique()]
        if min(map(len, groups)) < 2:
            return values.var(0) / n
        return sum(len(group) * group.var(0) for group in groups) / n**2

    @property
    def quartiles(self) -> Tensor:
        """Of the images, (3, R): the spread is skewed, a few images have most of the power."""
        return torch.quantile(self.power, torch.tensor([0.25, 0.5, 0.75], dtype=self.power.dtype), dim=0)

    @property
    def top(self) -> slice:
        """The upper half of the rings, as in the figures ``spectrum/.../top`` of RadialSpectrumDistance."""
        return slice(self.power.shape[1] // 2, None)

    @property
    def bottom(self) -> slice:
        """The lower half of the rings."""
        return slice(0, self.power.shape[1] // 2)

    def describe(self) -> dict[str, Any]:
        """Plain numbers for a JSON file."""
        return rounded(dict(images=len(self), mean=self.mean, std=self.std, stderr=self.stderr,
                            quartiles=self.quartiles))


def reduced_spectra(images: Tensor, strata: Tensor | None = None, batch_size: int = 500) -> ReducedSpectra:
    """Reduced spectra, averaged over channels, of images (N, C, H, W): floats in [-1, 1] or the uint8 of a file.

    ``strata`` (N,) are the classes of the images, see :class:`ReducedSpectra`.

    Raises:
        ValueError: fewer than two images, or images of less than 4 pixels.
    """
    if images.dim() != 4 or len(images) < 2 or min(images.shape[-2:]) < 4:
        raise ValueError(f'reduced_spectra: got images of shape {tuple(images.shape)}; it needs (N, C, H, W) with at '
                         'least two images of at least 4 pixels a side.')
    parts = []
    for batch in images.split(batch_size):
        batch = batch.double() / 127.5 - 1 if batch.dtype == torch.uint8 else batch.double()
        parts.append(radial_spectrum(batch).mean(1)[:, 1:])
    power = torch.cat(parts)
    frequencies = torch.arange(1, power.shape[1] + 1, dtype=torch.float64) / min(images.shape[-2:])
    return ReducedSpectra(power, frequencies, strata)


def _contributions(spectra: ReducedSpectra, version: str) -> tuple[Tensor, Tensor]:
    """Log spectrum of a set (R,), and what each image adds to it (N, R): their deviation is the sampling error."""
    power = spectra.power + QUANTISATION_POWER
    if version == 'log':
        return power.log().mean(0), power.log()
    if version == 'power':  # log of the mean: linearised, d log m = dm / m
        return power.mean(0).log(), power / power.mean(0)
    raise ValueError(f"log_ratio: version '{version}' is unknown; choose 'power' (the logarithm of the mean spectrum) "
                     "or 'log' (the mean of each image's logarithm).")


def log_ratio(generated: ReducedSpectra, real: ReducedSpectra, version: str = 'power') -> tuple[Tensor, Tensor]:
    """Natural log of generated over real power in each ring, and its standard error over images: two (R,).

    ``version`` and the constant that is added (the power of 8-bit rounding) are those of
    :class:`~slimdiff.evaluation.RadialSpectrumDistance`. -0.1 says that a tenth of the power is missing.

    Raises:
        ValueError: sets of different image sizes, or an unknown version.
    """
    _check_sizes(generated, real)
    (a, parts_a), (b, parts_b) = _contributions(generated, version), _contributions(real, version)
    return a - b, (generated.variance_of_mean(parts_a) + real.variance_of_mean(parts_b)).sqrt()


def band_log_ratio(generated: ReducedSpectra, real: ReducedSpectra, rings: slice,
                   version: str = 'power') -> tuple[float, float]:
    """Mean of :func:`log_ratio` over some rings, and its standard error (the rings of an image go together)."""
    _check_sizes(generated, real)
    (a, parts_a), (b, parts_b) = _contributions(generated, version), _contributions(real, version)
    variance = (generated.variance_of_mean(parts_a[:, rings].mean(1))
                + real.variance_of_mean(parts_b[:, rings].mean(1)))
    return float((a - b)[rings].mean()), float(variance**0.5)


def _check_sizes(generated: ReducedSpectra, real: ReducedSpectra) -> None:
    if generated.power.shape[1] != real.power.shape[1]:
        raise ValueError(f'Spectra of images of different sizes: {generated.power.shape[1]} and '
                         f'{real.power.shape[1]} rings. Compare sets of one image size.')


def compare_spectra(real: ReducedSpectra, sets: Mapping[str, Sequence[ReducedSpectra]],
                    control: ReducedSpectra | None = None) -> dict[str, Any]:
    """Everything that figure and table show, as plain numbers.

    Args:
        sets: by name; several spectra of one name are those of networks from several training seeds.
        control: other real images: how far two sets are apart that do not differ.

    Returns:
        ``dict(frequencies, real, sets={name: dict(runs=[...], power=..., log=...)})``; ``power`` and ``log`` hold, for
        the mean over runs, ``ratio`` and ``stderr`` by ring and the numbers ``bottom``, ``top`` with
        ``*_stderr`` (over images) and ``*_seeds`` (standard deviation over runs; None for one).
    """
    sets = dict(sets) | ({} if control is None else {'real, other images': [control]})
    return dict(frequencies=rounded(real.frequencies), real=real.describe(), sets={
        name: dict(runs=[dict(run.describe(), **{v: rounded(log_ratio(run, real, v)[0]) for v in VERSIONS})
                         for run in runs],
                   **{version: _over_runs(runs, real, version) for version in VERSIONS})
        for name, runs in sets.items()})


def _over_runs(runs: Sequence[ReducedSpectra], real: ReducedSpectra, version: str) -> dict[str, Any]:
    ratios, errors = zip(*(log_ratio(run, real, version) for run in runs))
    # All runs meet the same real images, whose error does not average out.
    shared = _contributions(real, version)[1]
    result = dict(ratio=torch.stack(ratios).mean(0), stderr=_shared_error(errors, real.variance_of_mean(shared).sqrt()))
    for name, rings in (('bottom', real.bottom), ('top', real.top)):
        values, band_errors = zip(*(band_log_ratio(run, real, rings, version) for run in runs))
        values, band_errors = torch.tensor(values).double(), [torch.tensor(e).double() for e in band_errors]
        own = real.variance_of_mean(shared[:, rings].mean(1)).sqrt()
        result[name] = float(values.mean())
        result[f'{name}_stderr'] = float(_shared_error(band_errors, own))
        result[f'{name}_seeds'] = float(values.std()) if len(values) > 1 else None
    return rounded(result)


def _shared_error(errors: Sequence[Tensor], shared: Tensor) -> Tensor:
    """Standard error of the mean of n differences that have ``shared`` in common: sqrt(mean(e^2 - s^2) / n + s^2)."""
    own = torch.stack([(error.square() - shared.square()).clamp_min(0) for error in errors]).mean(0) / len(errors)
    return (own + shared.square()).sqrt()

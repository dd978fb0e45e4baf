"""Noise processes: x_t = alpha(t) x0 + sigma(t) eps, with eps standard normal.

Two of them: the variance-preserving one of DDPM (Ho et al. 2020, Eq. 4), with alpha^2 + sigma^2 = 1 at discrete t, and
rectified flow (Liu et al. 2023; Lipman et al. 2023), with alpha + sigma = 1 at real t. Whatever depends on the process
asks one of these objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimdiff.functional.prediction import convert_prediction


class NoiseProcess:
    """What both processes can do, given :meth:`levels`.

    Attributes:
        num_train_timesteps: T. The noise grows with t, from about none at 0 to about nothing else at T.
        prediction_types: what a network of this process may predict (diffusers' names).
        name: in files, as ``schedule['process']`` of a record.
    """

    num_train_timesteps: int
    prediction_types: tuple[str, ...]
    name: str

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at timesteps of any shape, in float64."""
        raise NotImplementedError

    def check(self, t: Tensor) -> None:
        """Raise ValueError for timesteps of a type that networks of this process are not trained on."""

    def timesteps(self, t: Tensor) -> Tensor:
        """Real numbers in [0, T] as timesteps that networks are trained at: a discrete process floors them."""
        raise NotImplementedError

    def covers(self, other: NoiseProcess) -> float:
        """The share of the other's timesteps whose signal-to-noise ratio this process has."""
        snr = other.snr(other.timesteps_at((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000))
        return ((self.snr(self.timesteps_of(snr)) / snr - 1).abs() < 0.01).double().mean().item()

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at t (N,), as (N, 1, 1, 1) of the type of ``like``."""
        alpha, sigma = self.levels(t)
        return alpha.view(-1, 1, 1, 1).to(like), sigma.view(-1, 1, 1, 1).to(like)

    def powers(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha^2 and sigma^2 at timesteps of any shape, in float64."""
        alpha, sigma = self.levels(t)
        return alpha**2, sigma**2

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha^2 / sigma^2, float64."""
        signal, noise = self.powers(t)
        return signal / noise

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (N, C, H, W)."""
        alpha, sigma = self.coefficients(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, prediction_type: str) -> Tensor:
        """What a network of this prediction type should predict at x_t (N, C, H, W)."""
        if prediction_type == 'epsilon':
            return noise
        if prediction_type == 'sample':
            return x0
        if prediction_type == 'flow_prediction':
            return noise - x0
        alpha, sigma = self.coefficients(t, x0)
        return alpha * noise - sigma * x0  # v (Salimans & Ho 2022)

    def convert(self, prediction: Tensor, x_t: Tensor, t: Tensor, source: str, target: str) -> Tensor:
        """A prediction at x_t as one of another type (:mod:`slimdiff.functional.prediction`)."""
        return convert_prediction(prediction, x_t, *self.coefficients(t, x_t), source, target)

    def draw_uniform(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Timesteps (count,) for training, uniform."""
        raise NotImplementedError

    def timesteps_at(self, level: Tensor) -> Tensor:
        """Timesteps for training at levels in [0, 1], their share of the way from no noise to all."""
        return self.timesteps(level * self.num_train_timesteps)

    def timesteps_of(self, snr: Tensor) -> Tensor:
        """Real timesteps (float64) at which the process has these signal-to-noise ratios, as near as it comes."""
        raise NotImplementedError


class VariancePreserving(NoiseProcess):
    """alpha = sqrt(a_t), sigma = sqrt(1 - a_t) at t = 0 .. T-1; between them log SNR is interpolated.

    Args:
        alphas_cumprod: a (T,).
    """

    prediction_types = ('epsilon', 'sample', 'v_prediction')
    name = 'variance_preserving'

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self.alphas_cumprod = alphas_cumprod.double()
        self.num_train_timesteps = len(alphas_cumprod)

    def signal(self, t: Tensor) -> Tensor:
        """a at t."""
        a = self.alphas_cumprod.to(t.device)
        if not t.is_floating_point():
            return a[t]
        low = t.double().clamp(0, len(a) - 1).floor().long()
        high = (low + 1).clamp(max=len(a) - 1)
        share = t.double().clamp(0, len(a) - 1) - low
        # Before a timestep of pure noise, whose log SNR is infinite, a itself.
        return torch.where(a[high] > 0, torch.lerp(a.logit()[low], a.logit()[high], share).sigmoid(),
                           torch.lerp(a[low], a[high], share))

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.signal(t)
        return a.sqrt(), (1 - a).sqrt()

    def powers(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.signal(t)
        return a, 1 - a

    def draw_uniform(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.randint(self.num_train_timesteps, (count, ), generator=generator, device=device)

    def timesteps(self, t: Tensor) -> Tensor:
        return t.floor().long().clamp(max=self.num_train_timesteps - 1)

    def timesteps_of(self, snr: Tensor) -> Tensor:
        logs = self.alphas_cumprod.to(snr.device).logit().flip(0)  # rising
        wanted = snr.double().log().clamp(logs[0], logs[-1])
        high = torch.searchsorted(logs, wanted).clamp(1, len(logs) - 1)
        share = (wanted - logs[high - 1]) / (logs[high] - logs[high - 1])
        # Next to a timestep of pure noise, whose logarithm is infinite, the share is undefined.
        return len(logs) - high - share.nan_to_num(1.0)


class RectifiedFlow(NoiseProcess):
    """alpha = 1 - s, sigma = s with s = t / T, at real t in (0, T]. The network predicts the velocity eps - x0.

    Args:
        num_train_timesteps: T; networks of diffusers see t, not s.
    """

    prediction_types = ('flow_prediction', )
    name = 'rectified_flow'

    def __init__(self, num_train_timesteps: int = 1000) -> None:
        self.num_train_timesteps = num_train_timesteps

    def check(self, t: Tensor) -> None:
        if not torch.as_tensor(t).is_floating_point():
            raise ValueError(f'Timesteps of a flow network are real numbers in [0, {self.num_train_timesteps}], got '
                             f'{torch.as_tensor(t).dtype}: give t = {self.num_train_timesteps} s as floating point.')

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        self.check(t)
        s = t.double() / self.num_train_timesteps
        return 1 - s, s

    def draw_uniform(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        # In (0, T]: without noise there is nothing to learn.
        return (1 - torch.rand(count, generator=generator, device=device)) * self.num_train_timesteps

    def timesteps(self, t: Tensor) -> Tensor:
        return t.float()

    def timesteps_of(self, snr: Tensor) -> Tensor:
        return self.num_train_timesteps / (1 + snr.double().sqrt())


def translate(x_t: Tensor, t: Tensor, source: NoiseProcess, target: NoiseProcess) -> tuple[Tensor, Tensor]:
    """x_t of one process as the x_t of another that holds the same x0 and the same noise, and its timesteps.

    Both are x0 and eps in the same proportion, at the timestep where the other process has the same signal-to-noise
    ratio: only the scale differs. Ratios that the other process does not reach are taken as its nearest.

    Args:
        x_t: (N, C, H, W); t: (N,).
    """
    times = target.timesteps_of(source.snr(t))
    alpha, sigma = source.levels(t)
    other_alpha, other_sigma = target.levels(times)
    scale = ((other_alpha**2 + other_sigma**2) / (alpha**2 + sigma**2)).sqrt()
    return x_t * scale.view(-1, 1, 1, 1).to(x_t), times.to(t.dtype if t.is_floating_point() else torch.float32)

"""The toy experiment of Yang et al. 2023 (section 4.2; supplement, section 4.3): two cosines and a small network.

Each clean signal is ``cos(alpha 2 pi x)`` at 40 points of [0, 1], alpha drawn from a few frequencies with unequal
probability. A network 41-M-40 with one tanh layer reads the noisy signal and the timestep, and predicts the noise;
Adam with a constant rate of 1e-3, batches of 1,000, 10,000 iterations. The paper says that M = 64 loses the rare
frequency and M = 1024 keeps it.

What the paper leaves open, and what is done here:

- The points are k / 40: each cosine is then exactly one DFT frequency, and two cosines are orthogonal.
- Frequencies 5 and 3 with probabilities 0.8 and 0.2; other ones are arguments.
- The timestep enters as t / T in [0, 1): t itself would saturate tanh.
- T = 1000 and DDPM's linear schedule, uniform t, plain mean squared error of the noise.
- Initial weights are those of ``torch.nn.Linear``.

The data are K points of R^40, so the best possible denoiser is known in closed form (:func:`bayes_eps`). The error
of a network is therefore given in excess of what cannot be avoided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.sampling import build_scheduler, denoise, image_generators, initial_noise, mix_seed

#: Edges of the timestep bins in which errors are given, as in the denoising metric.
TIMESTEP_EDGES = (0, 100, 300, 600, 900, 1000)
NUM_TIMESTEPS = 1000

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ToyData:
    """A mixture of cosines.

    Args:
        frequencies: alpha of each, whole numbers from 1 to below half of ``points``.
        probabilities: of each; they add up to 1.
        points: samples of a signal.

    Raises:
        ValueError: frequencies or probabilities out of range, or of different number.
    """

    frequencies: tuple[int, ...] = (5, 3)
    probabilities: tuple[float, ...] = (0.8, 0.2)
    points: int = 40

    def __post_init__(self) -> None:
        limit = (self.points - 1) // 2
        if len(set(self.frequencies)) != len(self.frequencies) or not all(1 <= f <= limit for f in self.frequencies):
            raise ValueError(f'frequencies: got {list(self.frequencies)}; {self.points} points tell apart different '
                             f'whole numbers from 1 to {limit}.')
        if len(self.probabilities) != len(self.frequencies):
            raise ValueError(f'probabilities: got {list(self.probabilities)} for frequencies {list(self.frequencies)}; '
                             'give one for each.')
        if min(self.probabilities) <= 0 or abs(sum(self.probabilities) - 1) > 1e-6:
            raise ValueError(f'probabilities: got {list(self.probabilities)}; they must be above 0 and add up to 1.')

    def signals(self) -> Tensor:
        """The clean signals, (K, points) float32."""
        x = torch.arange(self.points, dtype=torch.float64) / self.points
        alpha = torch.tensor(self.frequencies, dtype=torch.float64)
        return torch.cos(2 * math.pi * alpha[:, None] * x).float()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random clean signals, (count, points)."""
        weights = torch.tensor(self.probabilities, dtype=torch.float64)
        return self.signals()[torch.multinomial(weights, count, replacement=True, generator=generator)]


def alphas_cumprod() -> Tensor:
    """DDPM's linear schedule, (1000,) float32."""
    return build_scheduler(dict(type='DDPMScheduler')).alphas_cumprod


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """sqrt(a) x0 + sqrt(1 - a) noise; (N, D), (N, D), (N,) -> (N, D)."""
    return alpha_bar.sqrt()[:, None] * x0 + (1 - alpha_bar).sqrt()[:, None] * noise


def bayes_eps(x_t: Tensor, alpha_bar: Tensor, signals: Tensor, probabilities: Sequence[float]) -> Tensor:
    """The noise predicted by the best possible denoiser, E[noise | x_t], (N, D).

    x0 is one of K known signals s_k, so p(k | x_t) is proportional to p_k exp(-|x_t - sqrt(a) s_k|^2 / (2 (1 - a))),
    E[x0 | x_t] = sum_k p(k | x_t) s_k, and the noise is what remains of x_t, divided by sqrt(1 - a).

    Args:
        x_t: (N, D) noisy signals.
        alpha_bar: (N,), below 1.
        signals, probabilities: (K, D) and K.
    """
    a = alpha_bar.to(x_t)[:, None]
    distance = (x_t[:, None] - a.sqrt()[:, None] * signals.to(x_t)).square().sum(-1)  # (N, K)
    logits = torch.tensor(probabilities).to(x_t).log() - distance / (2 * (1 - a))
    mean = logits.softmax(1) @ signals.to(x_t)
    return (x_t - a.sqrt() * mean) / (1 - a).sqrt()


class ToyNet(nn.Module):
    """The supplement's network: (points + 1) - hidden - points, tanh; input is x_t and t / T."""

    def __init__(self, hidden: int, points: int = 40) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(points + 1, hidden), nn.Tanh(), nn.Linear(hidden, points))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(N, points) and integer t, (N,) or a scalar -> noise (N, points)."""
        time = (t.to(x_t) / NUM_TIMESTEPS).expand(len(x_t))
        return self.net(torch.cat([x_t, time[:, None]], 1))


def train_toy(data: ToyData, hidden: int, seed: int, iterations: int = 10_000, batch_size: int = 1000,
              lr: float = 1e-3, on_step: Callable[[], None] | None = None) -> ToyNet:
    """Train a :class:`ToyNet`; weights, data, timesteps and noise are a function of ``seed``.

    Raises:
        ValueError: a width, a batch or a number of iterations below 1.
    """
    if min(hidden, iterations, batch_size) < 1:
        raise ValueError(f'toy: hidden={hidden}, iterations={iterations} and batch_size={batch_size} must be at least '
                         '1.')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed, 0))
        net = ToyNet(hidden, data.points)
    generator = torch.Generator().manual_seed(mix_seed(seed, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    schedule = alphas_cumprod()
    for _ in range(iterations):
        x0 = data.draw(batch_size, generator)
        t = torch.randint(NUM_TIMESTEPS, (batch_size,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        loss = (net(add_noise(x0, noise, schedule[t]), t) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step()
    return net.eval()


def bayes_predictor(data: ToyData) -> Predict:
    """:func:`bayes_eps` of ``data`` with the signature of a network: ``predict(x_t, t)``."""
    schedule, signals = alphas_cumprod(), data.signals()
    return lambda x_t, t: bayes_eps(x_t, schedule[t].expand(len(x_t)), signals, data.probabilities)


def sample_toy(predict: Predict, points: int = 40, count: int = 1000, sampler: str = 'DDPMScheduler',
               num_steps: int = NUM_TIMESTEPS, seed: int = 0) -> Tensor:
    """Generate signals, (count, points); every network starts from the same noise.

    Estimates of the clean signal are not clipped to the range of the data: what the network says is not touched.

    Args:
        predict: ``predict(x_t, t)`` gives the noise.
        points, count: length and number of the signals.
        sampler, num_steps: a diffusers scheduler and its steps.
        seed: of the noise.
    """
    generators = image_generators(seed, range(count))
    scheduler = build_scheduler(dict(type=sampler), base=build_scheduler(dict(type='DDPMScheduler', clip_sample=False)))
    noise = initial_noise((points,), generators, torch.device('cpu'))
    # One stream for the noise of all signals from here on: a thousand generators a step would take longer than the net.
    return denoise(predict, scheduler, noise, num_steps, generators=generators[:1])


def describe_samples(samples: Tensor, data: ToyData) -> dict[str, Any]:
    """What was generated.

    Returns:
        ``share``: of the samples that are frequency k, that is within half a signal's RMS (0.354) of it; two of the
        signals are an RMS distance of 1 apart. ``neither``: the rest. ``amplitude``: mean over samples of the
        amplitude at each whole frequency 0 ... points / 2 (a cosine has 1 at its own); the data's is its
        probability. ``amplitude_std``: its spread over samples, at the data's frequencies. ``outside``: RMS of what
        lies at no frequency of the data.
    """
    signals = data.signals()
    distance = (samples[:, None] - signals).square().mean(-1).sqrt()  # (N, K)
    near = distance < 0.5 * signals[0].square().mean().sqrt()
    amplitude = torch.fft.rfft(samples).abs() * (2 / data.points)  # (N, points // 2 + 1)
    projection = samples @ signals.t() / signals.square().sum(1)
    outside = samples - projection @ signals
    return dict(share=near.double().mean(0).tolist(), neither=(~near.any(1)).double().mean().item(),
                amplitude=amplitude.double().mean(0).tolist(),
                amplitude_std=amplitude[:, list(data.frequencies)].double().std(0).tolist(),
                outside=outside.double().square().mean().sqrt().item())


@torch.no_grad()
def band_errors(predict: Predict, data: ToyData, count: int = 2000, seed: int = 0) -> dict[str, Tensor]:
    """Denoising error per signal, bin of timesteps (:data:`TIMESTEP_EDGES`) and DFT frequency, on common noise.

    Returns:
        ``error`` and ``excess``, both (K, bins, points // 2 + 1) float64: the mean squared error of one orthonormal
        DFT coefficient of the predicted noise against the noise (a prediction of zero has 1), and against the best
        possible prediction. In expectation ``error`` is ``excess`` plus the error of the best.
    """
    schedule, signals = alphas_cumprod(), data.signals()
    best = bayes_predictor(data)
    error, excess = [], []
    for k, signal in enumerate(signals):
        for b, (start, stop) in enumerate(pairwise(TIMESTEP_EDGES)):
            generator = torch.Generator().manual_seed(mix_seed(seed, k, b))
            t = torch.randint(start, stop, (count,), generator=generator)
            noise = torch.randn(count, data.points, generator=generator)
            x_t = add_noise(signal.expand(count, -1), noise, schedule[t])
            predicted = predict(x_t, t)
            for target, out in ((noise, error), (best(x_t, t), excess)):
                power = torch.fft.rfft(predicted - target, norm='ortho').abs().double().square()
                out.append(power.mean(0))
    shape = (len(signals), len(TIMESTEP_EDGES) - 1, -1)
    return dict(error=torch.stack(error).view(shape), excess=torch.stack(excess).view(shape))


def measure_toy(predict: Predict, data: ToyData, count: int = 1000, ddpm_steps: int = NUM_TIMESTEPS,
                ddim_steps: int = 50) -> dict[str, Any]:
    """Samples described, and the errors at the data's frequencies and over all of them.

    Samples: ``ddpm`` and ``ddim``. ``error`` and ``excess``: ``at[j][k][b]`` is the error at frequency j of signal k
    in bin b, ``all[k][b]`` the mean over all coefficients.
    """
    result: dict[str, Any] = {}
    for name, sampler, steps in (('ddpm', 'DDPMScheduler', ddpm_steps), ('ddim', 'DDIMScheduler', ddim_steps)):
        samples = sample_toy(predict, data.points, count, sampler, steps)
        result[name] = dict(steps=steps, **describe_samples(samples, data), examples=samples[:8].tolist())
    # Every frequency but zero (and half the points, if that is whole) stands for two coefficients.
    weights = torch.full((data.points // 2 + 1,), 2.0, dtype=torch.float64)
    weights[0] = 1
    if data.points % 2 == 0:
        weights[-1] = 1
    for name, table in band_errors(predict, data, 2 * count).items():
        result[name] = dict(at=[table[..., f].tolist() for f in data.frequencies],
                            all=(table * weights).sum(-1).div(data.points).tolist())
    return result

"""A diffusion model whose every error is known: all data are zero, so eps = x_t / sqrt(1 - a).

At width w and timestep t the network predicts (1 + error(w, t)) eps. Its mean squared error is error^2 |eps|^2, and a
deterministic sampler multiplies x by a number at every step, so its samples are known, too.
"""

import contextlib

import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn
from torch.utils.data import DataLoader, Dataset

from slimdiff.models.algorithms import DiffusionModel
from slimdiff.models.backbones.adapt import Prediction
from slimdiff.search import NetworkCosts, Problem

COSTS = NetworkCosts({.25: 10., .5: 30., 1.: 100.})


def error(width, t):
    """Small widths err at the clean end; the widest does a little everywhere."""
    return .01 + (1 - width) * .3 * (1 - t / 1000)**2


class ScaledNoise(nn.Module):
    """``.widths``, ``.at(width)``, ``.extract(width)`` and a forward that takes ``width=``, as SlimmableUNet has them.

    It stands in for one, because the errors of no real network are known.
    """

    def __init__(self, alphas, widths=(.25, .5, 1.), broken=()):
        super().__init__()
        self.widths, self.active_width, self.broken = tuple(widths), 1.0, broken
        self.config = FrozenDict(sample_size=4, in_channels=3, num_classes=None)
        self.alphas, self.calls = alphas, 0
        self.scale = nn.Parameter(torch.ones(()))

    @contextlib.contextmanager
    def at(self, width):
        before, self.active_width = self.active_width, width
        yield self
        self.active_width = before

    def extract(self, width):
        return OneWidth(self, width)

    def forward(self, sample, timestep, class_labels=None, encoder_hidden_states=None, return_dict=True, width=None):
        width = self.active_width if width is None else width
        t = torch.as_tensor(timestep).long().expand(len(sample))
        factor = (1 + error(width, t)) / (1 - self.alphas[t]).sqrt()
        if width in self.broken:
            factor = factor * torch.nan
        self.calls += len(sample)
        return Prediction(sample=(self.scale * factor).to(sample)[:, None, None, None] * sample)


class OneWidth(nn.Module):
    """What it runs counts as the supernet's calls."""

    def __init__(self, supernet, width):
        super().__init__()
        self.supernet, self.width, self.config = supernet, width, supernet.config

    def forward(self, *args, **kwargs):
        return self.supernet(*args, **kwargs, width=self.width)


class Zeros(Dataset):
    _images_are_checked = True  # x0 = 0 is what the closed form is for

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return dict(inputs=torch.zeros(3, 4, 4))


def make_model(broken=()):
    model = DiffusionModel(unet=dict(type='UNet', sample_size=4, stages=[dict(channels=8, downsample=False)],
                                     norm_groups=4), sigma_data=None,
                           sampler=dict(type='DDIMScheduler', clip_sample=False, set_alpha_to_one=True))
    model.unet = ScaledNoise(model.noise_process.alphas_cumprod, broken=broken)
    return model.eval()


def make_problem(model=None, num_steps=5, cache=None, scheduler=None):
    model = model or make_model()
    loader = DataLoader(Zeros(), 5, collate_fn=lambda batch: dict(inputs=torch.stack([b['inputs'] for b in batch])))
    return Problem(model, scheduler or model.sampler, num_steps, COSTS, loader, cache)


def shrink(model, problem, actions):
    """What DDIM multiplies the noise by in all, under these widths: by hand from Song et al. (2021), Eq. 12."""
    alphas, factor = model.noise_process.alphas_cumprod, 1.0
    times = [int(t) for t in problem.timesteps]
    for k, (t, action) in enumerate(zip(times, actions)):
        a = alphas[t]
        a_next = alphas[times[k + 1]] if k + 1 < len(times) else torch.tensor(1.0)
        e = error(action.width, t)
        factor *= float(-e * (a_next / a).sqrt() + ((1 - a_next) / (1 - a)).sqrt() * (1 + e))
    return factor

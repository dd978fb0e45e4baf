"""Feature extractors for Frechet distances: (N, 3, H, W) in [-1, 1] -> (N, D)."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.registry import EXTRACTORS


@EXTRACTORS.register_module()
class RandomConvExtractor(nn.Module):
    """A convolutional network with fixed random weights: features without any download.

    The filters of the first layer have zero mean in every colour channel and see no padding. A network of plain
    random filters mostly measures brightness and colour; this one is blind to a constant shift of any channel and
    sees edges and textures. Every layer gives the spatial mean of its activations; they are concatenated.
    Distances in it are *not* FID and compare only with distances of the same extractor.

    Args:
        channels: width of each layer; the first keeps the resolution, the others halve it.
        seed: of the weights.

    Raises:
        ValueError: an image too small for the number of layers.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128), seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.channels = tuple(channels)
        self.min_size = 5 * 2**(len(self.channels) - 1)
        width = 3
        for i, out in enumerate(self.channels):
            kernel = 5 if i == 0 else 3
            weight = torch.randn(out, width, kernel, kernel, generator=generator)
            if i == 0:
                weight -= weight.mean((2, 3), keepdim=True)
            # Unit variance out for unit white noise in; He's factor 2 for the half that the rectifier removes.
            weight *= (2 / weight[0].numel())**0.5
            self.register_buffer(f'weight{i}', weight)
            width = out

    @property
    def num_features(self) -> int:
        return sum(self.channels)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < self.min_size:
            raise ValueError(f'RandomConvExtractor with {len(self.channels)} layers needs images of at least '
                             f'{self.min_size} pixels a side, got {tuple(images.shape[-2:])}. Give fewer channels.')
        features = []
        x = images
        for i in range(len(self.channels)):
            # Reflection, not zeros: zero padding would bring an edge of the image's brightness back.
            x = x if i == 0 else F.pad(x, (1, 1, 1, 1), mode='reflect')
            x = F.leaky_relu(F.conv2d(x, getattr(self, f'weight{i}'), stride=1 if i == 0 else 2), 0.2)
            features.append(x.mean((2, 3)))
        return torch.cat(features, 1)


def random_extractor(side: int) -> dict[str, Any]:
    """The config of a :class:`RandomConvExtractor` for images whose shorter side has so many pixels: its default from
    20 pixels on, with fewer layers below."""
    layers = max(1, min(3, (side // 5).bit_length()))
    return dict(type='RandomConvExtractor', **(dict(channels=(32, 64, 128)[:layers]) if layers < 3 else {}))


@EXTRACTORS.register_module()
class TorchScriptExtractor(nn.Module):
    """A network of your own from a TorchScript file: ``torch.jit.save(torch.jit.trace(net, x), 'net.pt')``.

    Args:
        path: the file. It must map a float image batch to features, (N, D) or (N, D, h, w) (averaged over space).
        image_size: images are resized to this size before (bilinear, anti-aliased); None keeps them.
        mean, std: per channel; what comes in is ``(image in [0, 1] - mean) / std``. None leaves [-1, 1].

    Raises:
        ValueError: no such file, or a file that is not TorchScript.
    """

    def __init__(self,
                 path: str,
                 image_size: int | None = None,
                 mean: tuple[float, float, float] | None = None,
                 std: tuple[float, float, float] | None = None) -> None:
        super().__init__()
        if not os.path.isfile(path):
            raise ValueError(f"TorchScriptExtractor: path='{path}' is not a file. Give a file written by "
                             'torch.jit.save.')
        if (mean is None) != (std is None):
            raise ValueError(f'TorchScriptExtractor: mean={mean} and std={std} must both be given or both be None.')
        try:
            self.network = torch.jit.load(path, map_location='cpu').eval()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"TorchScriptExtractor: path='{path}' cannot be read as TorchScript ({reason}). Write "
                             'it with torch.jit.save; a state dict alone is not enough.') from error
        self.image_size = image_size
        self.mean = None if mean is None else tuple(mean)
        self.std = None if std is None else tuple(std)

    def forward(self, images: Tensor) -> Tensor:
        if self.image_size is not None and images.shape[-2:] != (self.image_size, self.image_size):
            images = F.interpolate(images, (self.image_size, self.image_size), mode='bilinear', antialias=True)
        if self.mean is not None:
            mean, std = (images.new_tensor(value).view(1, -1, 1, 1) for value in (self.mean, self.std))
            images = ((images + 1) / 2 - mean) / std
        features = self.network(images)
        if not isinstance(features, Tensor) or features.ndim not in (2, 4):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError('TorchScriptExtractor: the network must return a tensor (N, D) or (N, D, h, w), '
                             f'got {shape}.')
        return features.mean((2, 3)) if features.ndim == 4 else features

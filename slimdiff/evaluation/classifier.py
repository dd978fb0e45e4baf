"""A small classifier of small images, and the file that holds it: what ClassAccuracy asks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from slimdiff.checkpoint import atomic_write
from slimdiff.installation import find_path

#: key of the safetensors file's metadata
KEY = 'slimdiff_classifier'
#: of a batch norm, which evaluation doesn't need
COUNTER = 'num_batches_tracked'


class SmallClassifier(nn.Module):
    """Six convolutions: images (N, channels, size, size) in [-1, 1] -> scores (N, classes).

    With the default widths 163,000 parameters and 5.5 M MACs at 32x32.

    Args:
        classes: names of the classes, in the order of the scores.
        channels, size: of the images.
        widths: at a half, a quarter and an eighth of the resolution.
    """

    def __init__(self, classes: Sequence[str], channels: int = 1, size: int = 32,
                 widths: Sequence[int] = (24, 48, 96)) -> None:
        super().__init__()
        self.classes, self.channels, self.size, self.widths = list(classes), channels, size, list(widths)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        before = 4 * channels
        for i, width in enumerate(widths):
            for cin, stride in ((before, 1 if i == 0 else 2), (width, 1)):
                layers += [nn.Conv2d(cin, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        expected = (self.channels, self.size, self.size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(f'The classifier was trained on images of {" x ".join(map(str, expected))} (channels, '
                             f'height, width), got {" x ".join(map(str, images.shape[1:]))}. Train one on your images: '
                             'slimdiff train_classifier.')
        return self.head(self.features(images.contiguous(memory_format=torch.channels_last)).mean((2, 3)))


def save_classifier(network: SmallClassifier, path: str | Path, info: Mapping[str, Any]) -> None:
    """Write the weights in half precision (0.33 MB), with what the network is and ``info``, as safetensors."""
    from safetensors.torch import save
    config = dict(classes=network.classes, channels=network.channels, size=network.size, widths=network.widths)
    weights = {name: value.half().contiguous()
               for name, value in network.state_dict().items() if not name.endswith(COUNTER)}
    content = save(weights, metadata={KEY: json.dumps(dict(config=config, **info))})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: file.write(content))


def load_classifier(path: str | Path) -> tuple[SmallClassifier, dict[str, Any]]:
    """The network of a file of :func:`save_classifier`, in evaluation mode, and the ``info`` that it was saved with.

    Raises:
        ValueError: no such file, or one that holds something else.
    """
    from safetensors import SafetensorError, safe_open
    found = find_path(path)
    how = 'Write one with slimdiff train_classifier.'
    if found is None:
        raise ValueError(f"classifier: there is no file '{path}'. {how}")
    try:
        with safe_open(found, 'pt') as file:
            info = json.loads((file.metadata() or {})[KEY])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
        network = SmallClassifier(**info.pop('config'))
        weights |= {name: value for name, value in network.state_dict().items() if name.endswith(COUNTER)}
        network.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"classifier: '{path}' is not a file of a classifier ({type(error).__name__}: {error}). {how}"
                         ) from error
    return network.eval().requires_grad_(False), info


def train_classifier(network: SmallClassifier, batches: Iterator[Mapping[str, Any]], iterations: int, lr: float = 4e-3,
                     progress: Callable[[int], None] = lambda images: None) -> None:
    """Train by AdamW with a learning rate that rises for a fifth of the time, then falls to nothing.

    Args:
        batches: each ``dict(inputs, labels)``.
        progress: told of the images of each iteration.
    """
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=iterations, pct_start=0.2)
    for batch in itertools.islice(batches, iterations):
        loss = F.cross_entropy(network(batch['inputs']), batch['labels'], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(len(batch['labels']))
    network.eval()


@torch.inference_mode()
def accuracy(network: SmallClassifier, loader: DataLoader) -> tuple[float, int]:
    """Share of a loader's images that the network puts into their class, and their number."""
    right = total = 0
    for batch in loader:
        right += int((network(batch['inputs']).argmax(1) == batch['labels']).sum())
        total += len(batch['labels'])
    return right / total, total

"""Encoded random pictures for the tests of the datasets, and what the default preparation makes of them."""

import io

import numpy as np
import torch
from PIL import Image

from slimdiff.datasets import build_dataloader


def encoded(number, size=(20, 24), format='PNG'):
    """Picture ``number`` as the bytes of a file."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **({'lossless': True} if format == 'WEBP' else {}))
    return out.getvalue()


def prepared(content, size):
    """VQGAN's preparation in a few lines of pillow: short side to ``size``, centre crop, [-1, 1]."""
    image = Image.open(io.BytesIO(content)).convert('RGB')
    width, height = image.size
    short = min(width, height)
    image = image.resize((round(width * size / short), round(height * size / short)), Image.Resampling.LANCZOS)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    pixels = np.array(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).permute(2, 0, 1).double() / 127.5 - 1


def assert_is(sample, content, size):
    """The sample's image is that of the file ``content``."""
    assert sample['inputs'].dtype == torch.float32
    torch.testing.assert_close(sample['inputs'].double(), prepared(content, size), atol=1e-6, rtol=0)


def batches(dataset, workers=0, batch_size=2, **loader):
    """All batches of one pass in order."""
    return list(build_dataloader(dict(dataset=dataset, batch_size=batch_size, num_workers=workers,
                                      sampler=dict(type='DefaultSampler', shuffle=False, round_up=False), **loader),
                                 seed=0))

"""The Inception-v3 that FID is defined by (Heusel et al. 2017), loading ``pt_inception-2015-12-05`` weights.

The TensorFlow network of December 2015 differs from torchvision's: average pools don't count their padding, the last
block pools by maximum, the classifier has 1008 outputs, and images are resized by TensorFlow 1's bilinear kernel
(corners at zero, no anti-aliasing). Module names are those of the widely used PyTorch conversion of its weights, so
that file loads strictly.
"""

from __future__ import annotations

import os
import pickle

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff.optional import install_command

HOW_TO_GET = ('Either download pt_inception-2015-12-05-6726825d.pth (95 MB, from the releases of github.com/mseitzer/'
              "pytorch-fid) and give its path, weights='...'; or, online, install torch-fidelity, which downloads "
              f"them: {install_command('fid')}. "
              'Without either, FrechetDistance measures with features that need no weights.')


class ConvNormRelu(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int | tuple[int, int], stride: int = 1,
                 padding: int | tuple[int, int] = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35: 1x1, 5x5 and double 3x3 branches."""

    def __init__(self, cin: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNormRelu(cin, 64, 1)
        self.branch5x5_1 = ConvNormRelu(cin, 48, 1)
        self.branch5x5_2 = ConvNormRelu(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNormRelu(cin, 64, 1)
        self.branch3x3dbl_2 = ConvNormRelu(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormRelu(96, 96, 3, padding=1)
        self.branch_pool = ConvNormRelu(cin, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(average_pool(x)),
        ], 1)


class BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNormRelu(cin, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNormRelu(cin, 64, 1)
        self.branch3x3dbl_2 = ConvNormRelu(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNormRelu(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """17 x 17: 7x7 convolutions, factorised."""

    def __init__(self, cin: int, width: int) -> None:
        super().__init__()
        row, column = dict(kernel=(1, 7), padding=(0, 3)), dict(kernel=(7, 1), padding=(3, 0))
        self.branch1x1 = ConvNormRelu(cin, 192, 1)
        self.branch7x7_1 = ConvNormRelu(cin, width, 1)
        self.branch7x7_2 = ConvNormRelu(width, width, **row)
        self.branch7x7_3 = ConvNormRelu(width, 192, **column)
        self.branch7x7dbl_1 = ConvNormRelu(cin, width, 1)
        self.branch7x7dbl_2 = ConvNormRelu(width, width, **column)
        self.branch7x7dbl_3 = ConvNormRelu(width, width, **row)
        self.branch7x7dbl_4 = ConvNormRelu(width, width, **column)
        self.branch7x7dbl_5 = ConvNormRelu(width, 192, **row)
        self.branch_pool = ConvNormRelu(cin, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(average_pool(x))], 1)


class BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvNormRelu(cin, 192, 1)
        self.branch3x3_2 = ConvNormRelu(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNormRelu(cin, 192, 1)
        self.branch7x7x3_2 = ConvNormRelu(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNormRelu(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNormRelu(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), wide, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """8 x 8: branches that end in a row and a column filter side by side."""

    def __init__(self, cin: int, max_pool: bool) -> None:
        super().__init__()
        self.max_pool = max_pool
        self.branch1x1 = ConvNormRelu(cin, 320, 1)
        self.branch3x3_1 = ConvNormRelu(cin, 384, 1)
        self.branch3x3_2a = ConvNormRelu(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNormRelu(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvNormRelu(cin, 448, 1)
        self.branch3x3dbl_2 = ConvNormRelu(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNormRelu(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvNormRelu(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvNormRelu(cin, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        # The TensorFlow graph pools by maximum in the very last block; published FIDs depend on it.
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.max_pool else average_pool(x)
        return torch.cat([
            self.branch1x1(x),
            self.branch3x3_2a(single), self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        ], 1)


def resize_tensorflow1(x: Tensor, size: int) -> Tensor:
    """TensorFlow 1's bilinear resize, (N, C, H, W) -> (N, C, size, size): output pixel i reads at i * H / size."""
    def taps(length: int) -> tuple[Tensor, Tensor, Tensor]:
        position = torch.arange(size, device=x.device, dtype=torch.float32) * (length / size)
        low = position.long()
        return low, (low + 1).clamp_max(length - 1), position - low

    low, high, weight = taps(x.shape[2])
    x = torch.lerp(x[:, :, low], x[:, :, high], weight[:, None])
    low, high, weight = taps(x.shape[3])
    return torch.lerp(x[..., low], x[..., high], weight)


class FIDInception(nn.Module):
    """uint8 images (N, 3, H, W) -> pool features (N, 2048)."""

    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormRelu(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormRelu(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNormRelu(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNormRelu(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNormRelu(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, max_pool=False)
        self.Mixed_7c = BlockE(2048, max_pool=True)
        # FID doesn't use the classifier; it is here so that the weights file loads strictly.
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor) -> Tensor:
        x = (resize_tensorflow1(images.float(), 299) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def build_inception(weights: str | None = None) -> nn.Module:
    """FID's feature network, uint8 (N, 3, H, W) -> (N, 2048).

    Args:
        weights: path of ``pt_inception-2015-12-05-6726825d.pth``; None lets torchmetrics get them through
            torch-fidelity.

    Raises:
        ValueError: no weights found (says both ways), or a file that holds something else.
    """
    if weights is None:
        return _download_inception()
    if not os.path.isfile(weights):
        raise ValueError(f"FID: weights='{weights}' is not a file. {HOW_TO_GET}")
    network = FIDInception()
    try:
        state = torch.load(weights, map_location='cpu', weights_only=True)
        network.load_state_dict(state)
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"FID: weights='{weights}' does not hold FID's Inception ({reason}). {HOW_TO_GET}") from error
    return network.eval().requires_grad_(False)


def _download_inception() -> nn.Module:
    from torchmetrics.image.fid import NoTrainInceptionV3
    try:
        # antialias=False is the resize that published FIDs were computed with.
        return NoTrainInceptionV3('inception-v3-compat', ['2048'], antialias=False)
    except ModuleNotFoundError as error:
        raise ValueError(f'FID: no Inception weights: weights=None and torch-fidelity is not installed. {HOW_TO_GET}'
                         ) from error
    except OSError as error:  # urllib's errors are OSErrors
        raise ValueError(f'FID: downloading the Inception weights failed ({error}). {HOW_TO_GET}') from error

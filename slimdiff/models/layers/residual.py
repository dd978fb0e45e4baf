"""The residual block of the DDPM / LDM family of UNets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimdiff.models.layers.channels import Axes, Channels, affine
from slimdiff.models.layers.checks import require_divisible


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm``; under bf16 autocast on CPU it works in float32, where PyTorch's backward is 1.6x faster."""

    def forward(self, x: Tensor) -> Tensor:
        mixed = x.dtype == torch.bfloat16 and self.weight.dtype == torch.float32
        if mixed and x.device.type == 'cpu' and torch.is_grad_enabled():
            return super().forward(x.float()).to(x.dtype)
        return super().forward(x)


def group_norm(what: str, channels: int, groups: int, eps: float) -> GroupNorm:
    """GroupNorm whose groups must divide the channels; the error names ``what``."""
    require_divisible(what, channels, groups, 'norm groups (norm_groups)')
    return GroupNorm(groups, channels, eps=eps)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters to zero: the block starts as the identity (Ho et al. 2020, appendix B)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def may_overwrite() -> bool:
    """Under ``torch.inference_mode`` in eager mode; torch.compile plans its memory itself."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def silu(x: Tensor) -> Tensor:
    """SiLU; under ``torch.inference_mode`` it overwrites x, which saves an allocation.

    Not under ``no_grad``: a teacher's features are tapped there, and must stay as its modules gave them.
    """
    return F.silu(x, inplace=may_overwrite())


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, with :func:`silu`'s rule: x is overwritten under ``torch.inference_mode``."""
    return x.add_(y) if may_overwrite() and x.dtype == y.dtype else x + y


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, + embedding, norm, SiLU, dropout, conv, + skip (Ho et al. 2020; Dhariwal & Nichol 2021).

    Args:
        in_channels, out_channels: a 1x1 convolution joins them on the skip where they differ.
        embedding_channels: width of the timestep (+ class) embedding.
        norm_groups, norm_eps: of both GroupNorms.
        dropout: before the second convolution.
        scale_shift_norm: the embedding scales and shifts the second norm (FiLM) in place of being added.
        make_resampler: where given, called twice with ``in_channels``: a resampler for the main path (between
            activation and first convolution) and one for the skip. That is the residual up/down-sampling of
            BigGAN and of LDM's ``resblock_updown``.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 embedding_channels: int,
                 norm_groups: int = 32,
                 norm_eps: float = 1e-5,
                 dropout: float = 0.0,
                 scale_shift_norm: bool = False,
                 make_resampler: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.scale_shift_norm = scale_shift_norm
        self.norm1 = group_norm('ResidualBlock input', in_channels, norm_groups, norm_eps)
        self.resample = make_resampler(in_channels) if make_resampler else nn.Identity()
        self.resample_skip = make_resampler(in_channels) if make_resampler else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(embedding_channels, out_channels * (2 if scale_shift_norm else 1))
        self.norm2 = group_norm('ResidualBlock output', out_channels, norm_groups, norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x (N, C_in, H, W) and the *activated* embedding (N, E) to (N, C_out, H', W')."""
        h = self.conv1(self.resample(silu(self.norm1(x))))
        film = self.embedding(embedding)[:, :, None, None]  # (N, C_out or 2 C_out, 1, 1)
        if self.scale_shift_norm:
            scale, shift = film.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(add(h, film))
        h = self.conv2(self.dropout(silu(h)))
        return add(h, self.skip(self.resample_skip(x)))

    def channel_axes(self, inputs: Channels, outputs: Channels, embedding: Channels) -> dict[str, Axes]:
        """Of its own weights, by what comes in and goes out; those of the resamplers in it are theirs to tell."""
        hidden = Channels.of(self.conv1.out_channels)
        axes = (affine('norm1', inputs) | affine('conv1', hidden, inputs)
                | affine('embedding', hidden.times(2 if self.scale_shift_norm else 1), embedding)
                | affine('norm2', hidden) | affine('conv2', outputs, hidden))
        return axes | (affine('skip', outputs, inputs) if isinstance(self.skip, nn.Conv2d) else {})

"""Building blocks of the UNets."""

from slimdiff.models.layers.attention import CrossAttentionBlock, SelfAttentionBlock
from slimdiff.models.layers.checks import require_divisible
from slimdiff.models.layers.residual import ResidualBlock

__all__ = ['CrossAttentionBlock', 'ResidualBlock', 'SelfAttentionBlock', 'require_divisible']

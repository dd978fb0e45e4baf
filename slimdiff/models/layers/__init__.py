"""Building blocks of the UNets."""

from slimdiff.models.layers.attention import CrossAttentionBlock, SelfAttentionBlock
from slimdiff.models.layers.checks import require_divisible
from slimdiff.models.layers.preconditioning import Preconditioning, preconditioning_coefficients
from slimdiff.models.layers.residual import ResidualBlock

__all__ = [
    'CrossAttentionBlock', 'Preconditioning', 'ResidualBlock', 'SelfAttentionBlock', 'preconditioning_coefficients',
    'require_divisible'
]

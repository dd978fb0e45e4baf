"""The KL first stage of latent diffusion and Stable Diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from slimdiff.models.autoencoders.pretrained import PretrainedAutoencoder
from slimdiff.registry import MODELS

POSTERIORS = ('sample', 'mode')


@MODELS.register_module()
class KLAutoencoder(PretrainedAutoencoder):
    """A variational autoencoder: ``diffusers.AutoencoderKL``, by default the layout of LDM's f = 8, 4 channels.

    ``latent_scale`` is 0.18215 for LDM's text-to-image model and Stable Diffusion; LSUN-Church divides by the standard
    deviation of its own latents (None takes what the checkpoint's folder says).

    Args:
        posterior: 'sample' draws latents from the encoder's normal distribution in training, as LDM does; 'mode' takes
            its mean. In evaluation it is the mean in any case.
        others: see :class:`~slimdiff.models.autoencoders.pretrained.PretrainedAutoencoder`.

    Raises:
        ValueError: an unknown posterior.
    """

    network_name = 'AutoencoderKL'
    # ddconfig of LDM's kl-f8: ch 128, ch_mult 1,2,4,4, 2 residual blocks; 83.7 M weights
    layout = dict(in_channels=3, out_channels=3, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
                  latent_channels=4, norm_num_groups=32, sample_size=256, scaling_factor=0.18215)

    def __init__(self, checkpoint: str | None = None, architecture: Mapping[str, Any] | None = None,
                 latent_scale: float | None = 0.18215, bf16: bool = False, decode_batch: int | None = 16,
                 posterior: str = 'sample') -> None:
        if posterior not in POSTERIORS:
            raise ValueError(f"KLAutoencoder: posterior must be 'sample' or 'mode', got {posterior!r}.")
        super().__init__(checkpoint, architecture, latent_scale, bf16, decode_batch)
        self.posterior = posterior

    def _encode(self, network: nn.Module, images: Tensor, noise: Tensor | None) -> Tensor:
        posterior = network.encode(images).latent_dist
        mean = posterior.mean.float()
        return mean if noise is None else mean + posterior.std.float() * noise.to(mean)

    def _decode(self, network: nn.Module, raw: Tensor) -> Tensor:
        return network.decode(raw.to(self._dtype)).sample

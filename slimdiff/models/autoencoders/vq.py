"""The VQ first stage of latent diffusion."""

from __future__ import annotations

from torch import Tensor, nn

from slimdiff.models.autoencoders.pretrained import PretrainedAutoencoder
from slimdiff.registry import MODELS


@MODELS.register_module()
class VQAutoencoder(PretrainedAutoencoder):
    """VQGAN (Esser et al. 2021) as latent diffusion uses it: ``diffusers.VQModel``, by default LDM's f = 4, 8192 x 3.

    Latents are *unquantised*: the quantisation is the decoder's first layer (Rombach et al. 2022, appendix G). They
    are not scaled either: diffusers' own default for this class, 0.18215, is wrong for LDM's models.

    The nearest code is looked for in float32, also with ``bf16``, where rounding would choose another one. It takes
    128 MiB for an image of 64x64 latents: that is what ``decode_batch`` bounds.

    Args: see :class:`~slimdiff.models.autoencoders.pretrained.PretrainedAutoencoder`.
    """

    network_name = 'VQModel'
    # ddconfig of LDM's vq-f4: ch 128, ch_mult 1,2,4, 2 residual blocks, no attention but the middle's; 55.3 M weights
    layout = dict(in_channels=3, out_channels=3, block_out_channels=(128, 256, 512), layers_per_block=2,
                  latent_channels=3, vq_embed_dim=3, num_vq_embeddings=8192, norm_num_groups=32, sample_size=256,
                  scaling_factor=1.0)

    def _encode(self, network: nn.Module, images: Tensor, noise: Tensor | None) -> Tensor:
        return network.encode(images).latents

    def _decode(self, network: nn.Module, raw: Tensor) -> Tensor:
        codes = network.quantize(raw.to(network.quantize.embedding.weight.dtype))[0].to(self._dtype)
        spatial = codes if network.config.norm_type == 'spatial' else None
        return network.decoder(network.post_quant_conv(codes), spatial)

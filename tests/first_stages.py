"""Tiny autoencoders of diffusers, saved as a user's are, for tests."""

import torch
from diffusers import AutoencoderKL, VQModel

TINY = dict(block_out_channels=(8, 16), down_block_types=('DownEncoderBlock2D', ) * 2,
            up_block_types=('UpDecoderBlock2D', ) * 2, layers_per_block=1, norm_num_groups=4, sample_size=16)


def tiny_vq(folder=None, seed=0, **changes):
    """A VQModel of factor 2 with 64 codes; saved to ``folder``. Its codes are apart enough to differ."""
    torch.manual_seed(seed)
    model = VQModel(**{**TINY, 'latent_channels': 3, 'vq_embed_dim': 3, 'num_vq_embeddings': 64, **changes}).eval()
    torch.nn.init.normal_(model.quantize.embedding.weight)
    if folder is not None:
        model.save_pretrained(folder)
    return model


def tiny_kl(folder=None, seed=0, **changes):
    """An AutoencoderKL of factor 2 with 4 channels; saved to ``folder``."""
    torch.manual_seed(seed)
    model = AutoencoderKL(**{**TINY, 'latent_channels': 4, **changes}).eval()
    if folder is not None:
        model.save_pretrained(folder)
    return model

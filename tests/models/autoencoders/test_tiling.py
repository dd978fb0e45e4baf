import pytest
import torch
from first_stages import tiny_kl

from slimdiff.models.autoencoders.tiling import decode_in_tiles


@torch.no_grad()
@pytest.mark.parametrize('height, width', [(20, 13), (8, 24), (6, 6)])
def test_equals_the_tiled_decoding_of_diffusers(height, width):
    model = tiny_kl()
    model.tile_sample_min_size, model.tile_latent_min_size = 16, 8
    latents = torch.randn(2, 4, height, width)
    ours = decode_in_tiles(lambda part: model.decoder(model.post_quant_conv(part)), latents, tile=8, factor=2)
    torch.testing.assert_close(ours, model.tiled_decode(latents).sample, rtol=1e-5, atol=1e-6)


def test_a_decoder_that_looks_at_one_pixel_is_the_same_in_tiles():
    latents = torch.randn(2, 3, 19, 23)

    def decode(part):
        return part.repeat_interleave(4, 2).repeat_interleave(4, 3)

    torch.testing.assert_close(decode_in_tiles(decode, latents, tile=8, factor=4), decode(latents))

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from slimdiff.models.layers import ResidualBlock

NAMES = {'norm1': 'norm1', 'conv1': 'conv1', 'embedding': 'time_emb_proj', 'norm2': 'norm2', 'conv2': 'conv2',
         'skip': 'conv_shortcut'}


@pytest.mark.parametrize('scale_shift', [False, True])
@pytest.mark.parametrize('out_channels', [16, 24])
def test_equals_the_diffusers_block_with_the_same_weights(scale_shift, out_channels):
    ours = ResidualBlock(16, out_channels, 20, norm_groups=4, scale_shift_norm=scale_shift)
    theirs = ResnetBlock2D(in_channels=16, out_channels=out_channels, temb_channels=20, groups=4, eps=1e-5,
                           time_embedding_norm='scale_shift' if scale_shift else 'default')
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    state = {f'{NAMES[k.split(".")[0]]}.{k.split(".")[1]}': v for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x, embedding = torch.randn(2, 16, 8, 8), torch.randn(2, 20)
    torch.testing.assert_close(ours(x, nn.functional.silu(embedding)), theirs(x, embedding), rtol=1e-5, atol=1e-5)


def test_resampler_sits_between_activation_and_convolution_and_on_the_skip():
    block = ResidualBlock(8, 8, 4, norm_groups=2, make_resampler=lambda channels: nn.AvgPool2d(2))
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)
    x, embedding = torch.randn(2, 8, 6, 6), torch.randn(2, 4)
    pool = nn.AvgPool2d(2)
    h = block.conv1(pool(nn.functional.silu(block.norm1(x))))
    h = block.norm2(h + block.embedding(embedding)[:, :, None, None])
    torch.testing.assert_close(block(x, embedding), pool(x) + block.conv2(nn.functional.silu(h)))


def test_starts_as_its_skip():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(8, 8, 4, norm_groups=2)(x, torch.randn(2, 4)), x)


def test_norm_in_bf16_training_matches_float32():
    block = ResidualBlock(8, 8, 4, norm_groups=2)
    x = torch.randn(2, 8, 4, 4)
    expected = block.norm1(x)
    got = block.norm1(x.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.02)


def test_norm_groups_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match='48 channels do not divide into 32 norm groups.*nearest: 32 or 64'):
        ResidualBlock(48, 64, 4)

"""UNets of diffusers as ours: what they compute, against diffusers itself."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from slimdiff.models import DiffusionModel
from slimdiff.models.backbones.protocol import example_inputs
from slimdiff.models.converters.unet2d import arguments_of, from_diffusers
from tests.models.tiny_distiller import shake

DDPM = dict(sample_size=16, block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4,
            down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
            up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'))
STABLE_DIFFUSION = dict(
    sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    cross_attention_dim=12, attention_head_dim=2, down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'))


@pytest.mark.parametrize('cls, settings', [
    # google/ddpm-cifar10-32: one head, another padding, sinusoids and epsilon
    (UNet2DModel, DDPM | dict(attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
                              norm_eps=1e-6)),
    (UNet2DModel, DDPM | dict(attention_head_dim=4, num_class_embeds=5, resnet_time_scale_shift='scale_shift',
                              attn_norm_num_groups=4)),
    (UNet2DConditionModel, STABLE_DIFFUSION),
    (UNet2DConditionModel, STABLE_DIFFUSION | dict(use_linear_projection=True, attention_head_dim=(2, 4)))])
def test_the_converted_network_computes_the_same(cls, settings):
    theirs = shake(cls(**settings), std=0.3).eval()
    ours = from_diffusers(theirs)
    inputs = example_inputs(theirs, 3, 5, random=True)
    with torch.no_grad():
        expected = theirs(**inputs).sample
        torch.testing.assert_close(ours(**inputs).sample, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert not ours.training


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    theirs = shake(UNet2DModel(**DDPM), std=0.3).eval().to(dtype)
    ours = from_diffusers(theirs)
    assert ours.dtype == theirs.dtype == dtype
    assert torch.equal(ours.stem.weight, theirs.conv_in.weight)


def test_images_that_are_not_square():
    with pytest.raises(ValueError, match='for images of 16 x 32, and ours are square'):
        from_diffusers(UNet2DModel(**DDPM | dict(sample_size=(16, 32))))


@pytest.mark.parametrize('cls, settings, reason', [
    (UNet2DModel, DDPM | dict(add_attention=False, down_block_types=('DownBlock2D', ) * 3,
                              up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D')), 'it also has up_blocks.1'),
    (UNet2DModel, DDPM | dict(downsample_type='resnet'), r'it has no down\d.downsampler.conv.weight'),
    (UNet2DModel, DDPM | dict(resnet_time_scale_shift='scale_shift'), 'it has no mid.attentions.0.norm.weight'),
    (UNet2DModel, DDPM | dict(act_fn='gelu'), 'the same weights compute something else'),
    (UNet2DModel, DDPM | dict(out_channels=6), r'conv_out.weight has the shape \(6, 8, 3, 3\) in place of'),
    (UNet2DConditionModel, STABLE_DIFFUSION | dict(transformer_layers_per_block=2),
     'it also has .*transformer_blocks.1')])
def test_others_are_refused(cls, settings, reason):
    with pytest.raises(ValueError, match=f'This {cls.__name__} is not a slimdiff.UNet: {reason}'):
        from_diffusers(shake(cls(**settings), std=0.3).eval())


def test_heads_of_a_plan():
    """Of UNet2DModel the channels of a head are given, or one head; of UNet2DConditionModel the number of heads."""
    plan = arguments_of(UNet2DModel(**DDPM | dict(attention_head_dim=4)).config)
    assert [stage['heads'] for stage in plan['stages']] == [None, 4, None] and plan['mid_heads'] == 4
    assert arguments_of(UNet2DModel(**DDPM | dict(attention_head_dim=None)).config)['mid_heads'] == 1
    plan = arguments_of(UNet2DConditionModel(**STABLE_DIFFUSION).config)
    assert [stage['heads'] for stage in plan['stages']] == [2, None]
    assert [stage['cross_attention'] for stage in plan['stages']] == [True, False]
    assert (plan['mid_heads'], plan['mid_cross_attention'], plan['context_channels']) == (2, True, 12)


def test_a_student_starts_from_a_network_without_a_size(tmp_path):
    """diffusers' UNets need not say their ``sample_size``; their weights are of any."""
    theirs = UNet2DModel(**DDPM | dict(sample_size=None))
    theirs.save_pretrained(tmp_path)
    unet = dict(type='UNet', **arguments_of({**theirs.config, 'sample_size': 8}))
    student = DiffusionModel(unet=unet, sigma_data=None, noise_scheduler=dict(type='DDPMScheduler'),
                             start_from=str(tmp_path))
    assert torch.equal(student.unet.stem.weight, theirs.conv_in.weight)

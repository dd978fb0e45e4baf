import pytest
from diffusers import UNet2DConditionModel

from slimdiff import UNet
from slimdiff.models.conditioners import RandomText, build_conditioner

STAGES = [dict(channels=8, blocks=1, heads=2, cross_attention=True)]


def ours(**changes):
    return UNet(**{**dict(sample_size=8, norm_groups=4, stages=STAGES, context_channels=6), **changes})


def theirs():
    return UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, ), norm_num_groups=4, layers_per_block=1,
        cross_attention_dim=6, attention_head_dim=4, down_block_types=('CrossAttnDownBlock2D', ),
        up_block_types=('CrossAttnUpBlock2D', ))


@pytest.mark.parametrize('make', [ours, theirs])
def test_it_fits_the_network_that_reads_it(make):
    conditioner = build_conditioner(dict(type='RandomText', channels=6), make())
    assert isinstance(conditioner, RandomText) and conditioner(['a', 'b']).shape == (2, 77, 6)


def test_none_is_none():
    assert build_conditioner(None, ours()) is None


@pytest.mark.parametrize('unet, attends', [
    (ours(), '6'),
    (ours(class_token=True, num_classes=3), 'nothing'),  # its attention reads the class
])
def test_another_width(unet, attends):
    message = (f'^conditioner of X: RandomText gives 8 channels, the UNet attends to {attends}. Take a text encoder of '
               'that width, or a UNet with context_channels=8')
    with pytest.raises(ValueError, match=message):
        build_conditioner(dict(type='RandomText', channels=8), unet, 'conditioner of X')

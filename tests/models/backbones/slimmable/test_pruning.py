"""Starting from the channels of a wide network, against slices that are written out by hand."""

import pytest
import torch

from slimdiff.models.backbones import DiT, UNet
from slimdiff.models.backbones.slimmable import SlimmableUNet
from slimdiff.models.backbones.slimmable.importance import order_channels
from slimdiff.models.backbones.slimmable.pruning import copy_channels, start_from_channels
from slimdiff.models.layers.channels import Channels


def unet(*channels, groups=4, **settings):
    stages = [dict(channels=c, blocks=1, up_blocks=2) for c in channels]
    stages[-1] |= dict(downsample=False, heads=2)
    return UNet(**dict(sample_size=16, in_channels=1, out_channels=1, norm_groups=groups, stages=stages, mid_heads=2,
                       num_classes=3, time_channels=16, **settings))


def shaken(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def test_stages_may_be_narrowed_by_different_shares():
    """Stem 16 -> 8, below 24 -> 20: of a concatenation the student has the first channels of each part."""
    wide, student = shaken(unet(16, 24)), shaken(unet(8, 20, groups=2), 1)
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    assert start_from_channels(student, wide) == []
    assert all(torch.equal(before[name], value) for name, value in wide.state_dict().items())
    order_channels(wide, (1.0, ))
    given, own = wide.state_dict(), student.state_dict()
    columns = [*range(20), *range(24, 32)]  # up1 reads [24 from below | 16 of the skip]
    assert torch.equal(own['up1.blocks.0.conv1.weight'], given['up1.blocks.0.conv1.weight'][:8][:, columns])
    assert torch.equal(own['up1.blocks.0.norm1.bias'], given['up1.blocks.0.norm1.bias'][columns])
    rows = [i + 24 * part for part in range(3) for i in range(20)]  # queries, keys and values
    assert torch.equal(own['mid.attentions.0.qkv.weight'], given['mid.attentions.0.qkv.weight'][rows][:, :20])
    assert torch.equal(own['class_embedding.weight'], given['class_embedding.weight'][:, :32])
    assert torch.equal(own['conv_out.weight'], given['conv_out.weight'][:, :8])


def test_the_same_share_everywhere_is_the_slice_of_a_supernet():
    wide, student = shaken(unet(16, 24)), unet(8, 12, groups=2)
    start_from_channels(student, wide)
    supernet = SlimmableUNet(widths=(0.5, 1.0), **{k: v for k, v in wide.config.items() if not k.startswith('_')})
    supernet.load_state_dict(wide.state_dict())
    supernet.order_by_importance()
    expected = supernet.extract(0.5).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in student.state_dict().items())


def test_resamplers_of_another_kind_keep_their_weights():
    gated = dict(downsampler=dict(type='WaveletGatedDown'), upsampler=dict(type='WaveletGatedUp'))
    wide, student = shaken(unet(16, 32)), shaken(unet(8, 16, groups=2, **gated), 1)
    before = student.state_dict()['down1.downsampler.project.weight'].clone()
    fresh = start_from_channels(student, wide)
    assert fresh and all('sampler' in name for name in fresh)
    assert torch.equal(student.state_dict()['down1.downsampler.project.weight'], before)


def test_a_transformer_of_fewer_heads():
    def dit(heads):
        return DiT(sample_size=8, in_channels=1, out_channels=1, patch_size=2, num_attention_heads=heads,
                   attention_head_dim=8, layers=(2, ))
    wide, student = shaken(dit(4)), dit(3)
    assert start_from_channels(student, wide) == []
    order_channels(wide, (1.0, ))
    channels = [i + 8 * part for part in range(4) for i in range(6)]  # the stream is four parts, as positions are
    rows = [i + 32 * part for part in range(3) for i in range(24)]  # whole heads of queries, keys and values
    assert torch.equal(student.state_dict()['blocks.1.qkv.weight'],
                       wide.state_dict()['blocks.1.qkv.weight'][rows][:, channels])


def test_what_is_wider_is_not_copied():
    target = torch.zeros(3)
    assert not copy_channels(target, (Channels((3, )), ), torch.ones(2), (Channels((2, )), ))
    assert not copy_channels(target, (None, ), torch.ones(4), (None, ))
    assert not target.any()
    with pytest.raises(ValueError, match='less than half. Give it the same stages and blocks, not wider'):
        start_from_channels(unet(32, 48), unet(16, 24))
    with pytest.raises(ValueError, match='Only a slimdiff.UNet or slimdiff.DiT has channels'):
        start_from_channels(unet(8, 16), torch.nn.Linear(2, 2))

"""Students designed for a number of MACs, against counts of what was built."""

import pytest

from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.models.backbones import DiT, UNet
from slimdiff.models.backbones.load import build_backbone
from slimdiff.sampling.actions import Run
from slimdiff.slimming import GATED, PLAIN
from slimdiff.slimming.design import TOLERANCE, design, narrow_heads


def count(network):
    return network_cost(build_backbone(network)).macs_with_attention


def wide_unet(**settings):
    stages = [dict(channels=32, blocks=1, up_blocks=2),
              dict(channels=64, blocks=1, up_blocks=2, downsample=False, heads=4)]
    return UNet(**dict(sample_size=16, in_channels=1, out_channels=1, norm_groups=8, stages=stages, mid_heads=4)
                | settings)


@pytest.mark.parametrize('resamplers, share', [(GATED, 0.1), (PLAIN, 0.25), ({}, 0.25)])
def test_a_unet_of_the_macs_asked_for(resamplers, share):
    wide = wide_unet()
    full = network_cost(wide).macs_with_attention
    network, macs = design(wide.config, resamplers, full, share, count)
    assert macs == count(network) and abs(macs / (share * full) - 1) <= TOLERANCE
    assert [(s['blocks'], s['up_blocks']) for s in network['stages']] == [(1, 2), (1, 2)]
    assert network['downsampler'] == (resamplers or PLAIN)['downsampler']
    shares = [stage['channels'] / wide for stage, wide in zip(network['stages'], (32, 64))]
    assert max(shares) <= 1.35 * min(shares)  # the teacher's proportions


def test_a_transformer_keeps_whole_heads():
    wide = DiT(sample_size=16, in_channels=1, out_channels=1, patch_size=2, num_attention_heads=8,
               attention_head_dim=16, layers=(8, ))
    full = network_cost(wide).macs_with_attention
    plain, macs = design(wide.config, {}, full, 0.3, count)
    assert plain['layers'] == [8] and plain['attention_head_dim'] == 16
    assert abs(macs / (0.3 * full) - 1) <= TOLERANCE
    gated, macs = design(wide.config, GATED, full, 0.3, count)
    assert gated['layers'] == [1, 6, 1] and gated['downsampler'] == GATED['downsampler']
    assert gated['num_attention_heads'] > plain['num_attention_heads']  # a quarter of the tokens inside
    assert abs(macs / (0.3 * full) - 1) <= TOLERANCE


def test_what_no_width_meets_names_the_nearest_two():
    """Networks of 4, 8, 12, ... of 90 MACs: none has a tenth within 3 %."""
    wide = wide_unet().config
    with pytest.raises(ValueError, match=r'No student has 0.1 of the 90 MACs within 3%. The nearest have 0.0889 of '
                       r'the teacher \(8 MACs\) and 0.133 of the teacher \(12 MACs\).'):
        design(wide, PLAIN, 90, 0.1, lambda network: network['stages'][0]['channels'])
    with pytest.raises(ValueError, match='neither stages .* nor blocks'):
        design({'hidden': 8}, {}, 1, 1.0, count)


@pytest.mark.parametrize('resamplers, widths', [(GATED, (0.25, 0.5, 0.75, 1.0)), (PLAIN, (0.5, 1.0))])
def test_a_slimmable_unet_has_all_of_its_widths(resamplers, widths):
    """Its cost at each width is that of the dense network of that width, which exists."""
    wide = wide_unet(stages=[dict(channels=64, blocks=1, up_blocks=2),
                             dict(channels=128, blocks=1, up_blocks=2, downsample=False, heads=4)])
    full = network_cost(wide).macs_with_attention
    network, macs = design(wide.config, resamplers, full, 0.3, count, widths)
    assert network['type'] == 'SlimmableUNet' and abs(macs / full / 0.3 - 1) <= TOLERANCE
    slim = build_backbone(network)
    costs = [network_cost(slim.dense(Run(width))).macs_with_attention for width in widths]
    assert costs[-1] == macs and costs == sorted(set(costs))


def test_a_slimmable_transformer_has_heads_for_its_widths():
    wide = DiT(sample_size=16, in_channels=1, out_channels=1, patch_size=2, num_attention_heads=8,
               attention_head_dim=16, layers=(8, ))
    full = network_cost(wide).macs_with_attention
    network, macs = design(wide.config, GATED, full, 0.3, count, (0.25, 0.5, 0.75, 1.0))
    assert network['num_attention_heads'] % 4 == 0 and abs(macs / full / 0.3 - 1) <= TOLERANCE
    assert build_backbone(network).widths == (0.25, 0.5, 0.75, 1.0)


@pytest.mark.parametrize('heads, channels, kept, expected', [
    (4, 96, 24, 1), (4, 96, 40, 2), (8, 64, 20, 2), (1, 8, 4, 1)])
def test_heads_stay_about_as_large(heads, channels, kept, expected):
    """24 channels each of 96: one of 24; two of 20; of 8 channels each, two of 10 (a head divides what is kept)."""
    assert narrow_heads(heads, channels, kept) == expected
    assert narrow_heads(None, channels, kept) is None

"""Parts of real networks of diffusers that are kept and reused, against the networks themselves."""

import copy

import pytest
import torch
from tiny_pipelines import ALL, made
from torch import nn

from slimdiff.calibration.actions import build, offered
from slimdiff.calibration.features import OwnFeatures
from slimdiff.calibration.plan import denoiser_of
from slimdiff.models.backbones import UNet
from slimdiff.models.backbones.blocks import block_ranges
from slimdiff.models.backbones.reroute import reroute


def recorded_call(name):
    """A denoiser, and the arguments of its second call in a pipeline."""
    pipe, sample = made(name)
    network, calls = denoiser_of(pipe)[1], []
    undo = reroute(network, lambda original, *args, **kwargs: calls.append((args, kwargs)) or original(*args, **kwargs))
    sample(num_inference_steps=2, output_type='latent')
    undo()
    return network, *calls[1]


@pytest.mark.parametrize('name', ALL)
@torch.no_grad()
def test_features_of_the_same_input_give_the_same_output(name):
    network, args, kwargs = recorded_call(name)
    wanted = network(*args, **kwargs)[0]
    reusing = [n for n in offered(network) if n.startswith(('features', 'blocks'))]
    assert len(reusing) == 2
    for action in reusing:
        part, cache = build(action, network).part, {}
        undo = part.install()
        assert torch.equal(part.store(network, args, kwargs, cache)[0], wanted)
        assert torch.allclose(part.reuse(network, args, kwargs, cache)[0], wanted, atol=1e-4, rtol=1e-4)
        while undo:
            undo.pop()()
        assert not any({'forward', '_compiled_call_impl'} & set(vars(m)) for m in network.modules())


@pytest.mark.parametrize('name', ['sd15', 'sd3'])
@torch.no_grad()
def test_a_reuse_runs_the_shallow_part_alone(name):
    network, args, kwargs = recorded_call(name)
    ran = []
    blocks = [*network.down_blocks, network.mid_block, *network.up_blocks] if name == 'sd15' else \
        list(network.transformer_blocks)
    for i, block in enumerate(blocks):
        inner = block.resnets[0] if name == 'sd15' else block.ff
        inner.register_forward_hook(lambda *_, i=i: ran.append(i))
    part, cache = build('features:1' if name == 'sd15' else 'blocks:1', network).part, {}
    part.install()
    part.store(network, args, kwargs, cache)
    assert ran == list(range(len(blocks)))
    ran.clear()
    part.reuse(network, args, kwargs, cache)
    assert ran == ([0, len(blocks) - 1] if name == 'sd15' else [0])


@torch.no_grad()
def test_reused_features_are_the_older_ones():
    """A UNet with the deep part's input frozen is what reuse computes: by hand, with another sample."""
    network, args, kwargs = recorded_call('sd15')
    part, cache = build('features:1', network).part, {}
    part.install()
    part.store(network, args, kwargs, cache)
    x = torch.randn_like(args[0])
    found = part.reuse(network, (x, *args[1:]), kwargs, cache)[0]
    # The last up-block, by hand: the new skips of the first level, around the old deep features.
    temb = network.time_embedding(network.get_time_embed(x, args[1]))
    stem = network.conv_in(x)
    _, skips = network.down_blocks[0](stem, temb)
    deep = network.up_blocks[-1](cache['deep'], (stem, *skips[:1]), temb)
    wanted = network.conv_out(network.conv_act(network.conv_norm_out(deep)))
    assert torch.allclose(found, wanted, atol=1e-5)


@torch.no_grad()
def test_skipped_blocks_are_a_network_without_them():
    network, args, kwargs = recorded_call('sd3')
    without = copy.deepcopy(network)
    without.transformer_blocks = nn.ModuleList([without.transformer_blocks[i] for i in (0, 2, 3)])
    part = build('skip:1-2', network).part
    part.install()
    assert torch.allclose(part.reuse(network, args, kwargs, {})[0], without(*args, **kwargs)[0], atol=1e-5)


@torch.no_grad()
def test_our_own_unet():
    network = UNet(sample_size=8, norm_groups=4, stages=[dict(channels=8), dict(channels=16, downsample=False)]).eval()
    x, t = torch.randn(2, 3, 8, 8), torch.tensor(3)
    part, cache = OwnFeatures(network), {}
    assert offered(network) == ['prediction', 'extrapolate', 'features', 'unguided']
    assert torch.equal(part.store(network, (x, t), {}, cache).sample, network(x, t).sample)
    assert torch.allclose(part.reuse(network, (x, t), dict(return_dict=False), cache)[0], network(x, t).sample)


def test_ranges_over_several_lists():
    network = denoiser_of(made('flux')[0])[1]  # 2 blocks of two streams, 3 of one
    double, single = network.transformer_blocks, network.single_transformer_blocks
    assert block_ranges(network, 1) == [(double, 1, 2), (single, 0, 3)]
    assert block_ranges(network, 3, 1) == [(single, 1, 2)]


def test_an_action_that_the_network_cannot_take():
    network = denoiser_of(made('sd15')[0])[1]
    for name in ('features:3', 'blocks:1', 'features:x', 'width:0.5', 'width:x', 'also', 'skip:1', 'nonsense'):
        with pytest.raises(ValueError, match=f"can't take the action '{name}'"):
            build(name, network)
    with pytest.raises(ValueError, match="Did you mean 'prediction'"):
        build('predicton', network)

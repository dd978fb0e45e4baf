"""Parts of real networks of diffusers that are kept and reused, against the networks themselves."""

import copy
import threading

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from tiny_pipelines import ALL, made
from torch import nn

from slimdiff.calibration.actions import Call, build, offered
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


def fresh(extra):
    """Networks take lists apart."""
    return {key: list(value) if isinstance(value, list) else value for key, value in extra.items()}


def extras(given, network, args, kwargs):
    """What a ControlNet, an adapter or FreeU (it writes into the features) adds to a call."""
    if given == 'FreeU':
        network.enable_freeu(0.1, 0.1, 3, 3)
        return {}
    if hasattr(network, 'transformer_blocks'):
        return dict(block_controlnet_hidden_states=[torch.randn(4, 16, 8) for _ in network.transformer_blocks])
    shapes = []
    hooks = [block.register_forward_hook(lambda m, a, out: shapes.append([out[0].shape, *(s.shape for s in out[1])]))
             for block in network.down_blocks]
    network(*args, **kwargs)
    for hook in hooks:
        hook.remove()
    if given == 'adapter':  # with attention before the down-sampler, else behind
        return dict(down_intrablock_additional_residuals=[torch.randn(shapes[i][i == 1]) for i in range(3)])
    return dict(down_block_additional_residuals=[torch.randn(args[0].shape[0], 4, 8, 8)]
                + [torch.randn(s) for _, *skips in shapes for s in skips],
                mid_block_additional_residual=torch.randn(shapes[-1][0]))


@pytest.mark.parametrize('name, action, given', [
    ('sd15', 'features:1', 'ControlNet'), ('sd15', 'features:2', 'ControlNet'), ('sd3', 'blocks:1', 'ControlNet'),
    ('sd3', 'blocks:2', 'ControlNet'), ('sd15', 'features:1', 'adapter'), ('sd15', 'features:1', 'FreeU'),
    ('sd15', 'features:2', 'FreeU')])
@torch.no_grad()
def test_what_is_added_on_the_way_counts_once(name, action, given):
    network, args, kwargs = recorded_call(name)
    plain = network(*args, **kwargs)[0]
    extra = extras(given, network, args, kwargs)
    wanted = network(*args, **kwargs | fresh(extra))[0]
    assert not torch.allclose(wanted, plain, atol=1e-2)
    part, cache = build(action, network).part, {}
    part.install()
    assert torch.equal(part.store(network, args, kwargs | fresh(extra), cache)[0], wanted)
    for _ in range(2):
        assert torch.allclose(part.reuse(network, args, kwargs | fresh(extra), cache)[0], wanted, atol=1e-4)


@torch.no_grad()
def test_blocks_that_the_network_leaves_out_have_nothing_to_reuse():
    network, args, kwargs = recorded_call('sd3')
    action = build('blocks:1', network)
    action.part.install()
    for left_out in ([1], [3]):
        cache = {}
        wanted = network(*args, **kwargs, skip_layers=left_out)[0]
        assert torch.equal(action.part.store(network, args, dict(kwargs, skip_layers=left_out), cache)[0], wanted)
        assert not action.fits(Call(network, args, kwargs, {action.part: cache}))


@torch.no_grad()
def test_another_thread_has_the_network_as_it_was():
    network, args, kwargs = recorded_call('sd15')
    wanted, found = network(*args, **kwargs)[0], []

    @torch.no_grad()
    def elsewhere():
        found.append(network(*args, **kwargs)[0])

    def inside(*_):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()

    part, cache = build('features:1', network).part, {}
    part.install()
    part.store(network, args, kwargs, cache)
    network.conv_in.register_forward_pre_hook(inside)
    part.reuse(network, (torch.randn_like(args[0]), *args[1:]), kwargs, {**cache, 'deep': cache['deep'] + 1})
    assert torch.equal(found[0], wanted)


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


@torch.no_grad()
def test_weights_that_are_brought_in_when_the_network_is_called():
    """As accelerate's offloading does it, by a hook around ``forward``."""
    class Offloaded(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            self.calls += 1
            return args, kwargs

    network, hook = UNet(sample_size=8, norm_groups=4, stages=[dict(channels=8), dict(channels=8)]).eval(), Offloaded()
    add_hook_to_module(network, hook)
    part, cache, call = OwnFeatures(network), {}, (torch.randn(2, 3, 8, 8), torch.tensor(3))
    part.store(network, call, {}, cache)
    part.reuse(network, call, {}, cache)
    assert hook.calls == 2


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

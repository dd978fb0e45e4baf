"""Widths and depths of a transformer against the networks that they are, and a hand count."""

import itertools

import pytest
import torch
from torch import nn

from slimdiff import DiT, SlimmableDiT, StepAwareUNet, count_macs
from slimdiff.checkpoint import save_checkpoint
from slimdiff.checkpoint.files import FORMAT
from slimdiff.export.folder import export_pipeline
from slimdiff.export.load import load_trained
from slimdiff.models import computation
from slimdiff.models.backbones.protocol import at_run, bare, network_of, runs_of
from slimdiff.models.backbones.slimmable.dit import block_influence, spread_out
from slimdiff.registry import MODELS
from slimdiff.sampling.actions import Reuse, Run
from slimdiff.sampling.allocation import StepAllocation

SIZE = dict(sample_size=8, in_channels=3, out_channels=3, num_attention_heads=4, attention_head_dim=4, num_classes=5)
KINDS = {'plain': dict(layers=(4, )), 'u-shaped': dict(layers=(1, 2, 1)), 'deep u': dict(layers=(1, 1, 2, 1, 1),
                                                                                       sample_size=16),
         'text': dict(layers=(4, ), context_channels=6), 'pooling': dict(
             layers=(2, 2, 2), downsampler=dict(type='AvgPoolDown'), upsampler=dict(type='NearestUp'))}
X, T, Y = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([7, 800]), torch.tensor(
    [0, 5])


def build(kind='plain', widths=(0.25, 0.5, 1.0), **more):
    torch.manual_seed(0)
    layers = sum(KINDS[kind]['layers'])
    depths = (0.5, 1.0) if layers == 4 and kind != 'u-shaped' else (0.75, 1.0) if layers == 4 else (5 / 6, 1.0)
    network = SlimmableDiT(**{**SIZE, 'widths': widths, 'depths': depths, **KINDS[kind], **more})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def inputs(network):
    size = network.config.sample_size
    context = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    return (X[:, :, :size, :size], T, Y), (
        {'encoder_hidden_states': context} if network.config.context_channels else {})


@pytest.mark.parametrize('kind', KINDS)
def test_an_extracted_network_is_the_slimmable_one_at_its_size(kind):
    network = build(kind)
    args, kwargs = inputs(network)
    runs = runs_of(network)
    assert len(runs) == 6 and runs[-1] == Run(1.0) and network.active == Run(1.0)
    outputs = []
    for run in runs:
        dense = network_of(network, run)
        assert type(dense) is DiT and len(dense.blocks) == round(run.depth * len(network.blocks))
        with torch.no_grad(), at_run(network, run):
            outputs.append(network(*args, **kwargs).sample)
        torch.testing.assert_close(dense(*args, **kwargs).sample, outputs[-1], rtol=0, atol=5e-6)
        # It opens again with nothing but its config.
        again = DiT.from_config(dense.config)
        again.load_state_dict(dense.state_dict())
        torch.testing.assert_close(again.eval()(*args, **kwargs).sample, outputs[-1], rtol=0, atol=5e-6)
    for one, two in itertools.pairwise(outputs):
        assert (one - two).abs().max() > 2e-4


@pytest.mark.parametrize('kind', KINDS)
def test_gradients_are_those_of_the_extracted_network_at_its_places(kind):
    network = build(kind)
    args, kwargs = inputs(network)
    run = runs_of(network)[2]
    assert run == Run(0.5, run.depth) and run.depth < 1
    dense = network_of(network, run)
    dense(*args, **kwargs).sample.square().sum().backward()
    with at_run(network, run):
        network(*args, **kwargs).sample.square().sum().backward()
    for name in ('proj_out.weight', 'patch_embedding.weight', 'blocks.0.qkv.weight'):
        wide, slim = network.get_parameter(name).grad, dense.get_parameter(name).grad
        assert wide.norm() > 0
        torch.testing.assert_close(wide.norm(), slim.norm(), rtol=1e-4, atol=1e-5)
    skipped = set(range(len(network.blocks))) - set(network.kept_blocks(run.depth))
    assert skipped and all(p.grad is None or p.grad.abs().max() == 0
                           for i in skipped for p in network.blocks[i].parameters())


def test_a_width_is_a_sub_network_of_the_wide_one():
    """Without norms and positions in the way: what is cut off reads and writes zeros."""
    block, slim = build().blocks[0], build().extract(0.5).blocks[0]
    assert slim.heads == 2
    # The first half of each quarter of the stream, and the first two heads.
    stream = torch.cat([torch.arange(i, i + 2) for i in (0, 4, 8, 12)])
    torch.testing.assert_close(slim.qkv.weight, torch.cat([w[:8][:, stream] for w in block.qkv.weight.chunk(3)]))
    torch.testing.assert_close(slim.out.weight, block.out.weight[stream][:, :8])
    torch.testing.assert_close(slim.up.weight, block.up.weight[:32][:, stream])
    torch.testing.assert_close(slim.modulation.bias, torch.cat([b[stream] for b in block.modulation.bias.chunk(6)]))


@pytest.mark.parametrize('width, depth', [(1.0, 1.0), (0.5, 1.0), (0.25, 0.5), (1.0, 0.5)])
def test_macs_by_hand(width, depth):
    network = build()
    c, blocks, tokens = round(16 * width), round(4 * depth), 16
    block = tokens * (4 * c * c + 2 * c * 4 * c) + 6 * c * c  # q, k, v, out; the feed-forward; the modulation
    ends = tokens * (c * 3 * 4) * 2 + 2 * c * c  # patches in and out, and the last modulation
    time = 256 * c + c * c
    cost = count_macs(network.extract(width, depth))
    assert cost.conv_linear_macs == blocks * block + ends + time
    assert cost.macs_with_attention == cost.conv_linear_macs + blocks * 2 * tokens**2 * c


def test_importance_moves_what_matters_to_the_front():
    network = build()
    args, _ = inputs(network)
    expected = network(*args).sample
    with torch.no_grad():
        network.blocks[1].modulation.weight.zero_()  # a block that does nothing, and a head
        network.blocks[1].modulation.bias.zero_()
        network.blocks[0].out.weight[:, :4] = 0
    expected = network(*args).sample
    assert block_influence(network)[1] == pytest.approx(0, abs=1e-6)
    assert network.order_by_importance() > 0
    torch.testing.assert_close(network(*args).sample, expected, rtol=1e-4, atol=1e-5)
    assert network.block_order[-1] == 1 and network.kept_blocks(0.5) != [0, 1]
    assert network.blocks[0].out.weight[:, -4:].abs().max() == 0
    hidden = network.blocks[2].up.weight.norm(dim=1) * network.blocks[2].down.weight.norm(dim=0)
    assert (hidden.diff() <= 1e-6).all()


def test_blocks_are_spread_over_the_network():
    assert spread_out([range(8)])[:3] == [0, 7, 3]
    order = spread_out([range(1), range(1, 5), range(5, 6)])
    assert set(order[:3]) == {0, 1, 5} and sorted(order) == list(range(6))


def test_an_allocation_of_widths_and_depths(tmp_path):
    network = build()
    allocation = StepAllocation.from_pieces([300, 600], [Run(1.0, 0.5), Reuse('features'), Run(0.25, 0.5)])
    model = StepAwareUNet.from_supernet(network, allocation)
    x, y = X[:, :, :8, :8], Y
    torch.testing.assert_close(model(x, torch.tensor([7, 800]), y).sample[0],
                               network.extract(1.0, 0.5)(x, T, y).sample[0], rtol=1e-5, atol=1e-5)
    first = model(x, 900, y).sample
    torch.testing.assert_close(first, network.extract(0.25, 0.5)(x, 900, y).sample)
    _, features = network.extract(0.25, 0.5).with_features(x, 900, y)
    torch.testing.assert_close(model(x, 400, y).sample,
                               network.extract(0.25, 0.5).shallow(x, 400, y, None, features).sample)
    model.save_pretrained(tmp_path)
    again = StepAwareUNet.from_pretrained(tmp_path)
    assert again.allocation == allocation
    torch.testing.assert_close(again(x, 900, y).sample, first)
    with pytest.raises(ValueError, match='at depth 0.5, but the network has one depth'):
        StepAwareUNet.from_supernet(network.extract(1.0), allocation)


def test_the_sandwich_trains_both_axes():
    model = MODELS.build(dict(
        type='SlimmableDiffusion', num_classes=5, num_random=2,
        unet=dict(type='SlimmableDiT', widths=(0.5, 1.0), depths=(0.5, 1.0), layers=(4, ),
                  **{k: v for k, v in SIZE.items() if k != 'num_classes'})))
    drawn = model.draw_runs(3)
    assert drawn['widest'] == [Run(1.0)] and drawn['narrowest'] == [Run(0.5, 0.5)]
    assert set(drawn['between']) == {Run(0.5), Run(1.0, 0.5)}
    model.seed_step(0)
    terms = model(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), mode='loss')
    terms['loss'].backward()
    assert model.unet is not None and all(p.grad is not None for p in model.parameters())
    assert set(model.evaluation_variants()) == {'', 'width1-depth0.5/', 'width0.5/', 'width0.5-depth0.5/'}


@pytest.mark.parametrize('change, message', [
    (dict(widths=(0.3, 1.0)), r'no 0\.3 of its 4 heads\. Legal: 0\.25, 0\.5, 0\.75, 1'),
    (dict(depths=(0.1, 1.0)), r'no 0\.1 of its 4 blocks\. Legal: 0\.25, 0\.5, 0\.75, 1'),
    (dict(depths=(0.5, 1.0), layers=(1, 2, 1)), r'no 0\.5 of its 4 blocks\. Legal: 0\.75, 1'),
    (dict(depths=(0, 1.0)), r'in \(0, 1\]'), (dict(widths=(0.5, )), '1.0 is one of them'),
    (dict(block_order=[0, 1, 2]), 'each of the blocks 0..3 once'),
])
def test_sizes_that_it_cannot_have_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        SlimmableDiT(**{**SIZE, 'layers': (4, ), **change})


def test_a_run_that_it_was_not_made_for():
    with pytest.raises(ValueError, match=r'depth: got 0\.75; this network has 0\.5, 1'), build().at(1.0, 0.75):
        pass


def test_the_order_of_blocks_travels_with_the_weights(tmp_path):
    """A start from a dense network decides it; the config, which leaves it open, would have another one."""
    settings = dict(num_classes=5, noise_scheduler=dict(type='DDPMScheduler', beta_schedule='linear'))
    torch.manual_seed(0)
    dense = MODELS.build(dict(type='DiffusionModel', unet=dict(type='DiT', layers=(4, ), **SIZE), **settings))
    for parameter in dense.parameters():
        nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        bare(dense.unet).blocks[0].modulation.weight.zero_()  # does nothing, but stands first by default
        bare(dense.unet).blocks[0].modulation.bias.zero_()
    export_pipeline(dense, tmp_path / 'dense')
    config = dict(type='SlimmableDiffusion', num_random=0, **settings,
                  unet=dict(type='SlimmableDiT', layers=(4, ), depths=(0.5, 1.0), **SIZE))
    trained = MODELS.build(dict(config, start_from=str(tmp_path / 'dense')))
    order = bare(trained.unet).block_order
    assert order[-1] == 0 and trained.unet.config.block_order == order
    save_checkpoint(dict(state_dict=trained.state_dict(), meta=dict(
        format=FORMAT, format_version=2, computes=computation.of_model(trained))), tmp_path / 'last.pth')
    again = MODELS.build(config)
    assert bare(again.unet).block_order != order
    load_trained(again, tmp_path / 'last.pth', 'online')
    x = X[:, :, :8, :8]
    with at_run(again.unet, Run(1.0, 0.5)), at_run(trained.unet, Run(1.0, 0.5)):
        torch.testing.assert_close(again.eval().predict(x, T, Y), trained.eval().predict(x, T, Y))
    fixed = MODELS.build(dict(config, unet=dict(config['unet'], block_order=[0, 1, 2, 3])))
    with pytest.raises(computation.ComputationError, match='block_order'):
        load_trained(fixed, tmp_path / 'last.pth', 'online')


def test_widths_and_depths_are_distilled_at_a_tap(tmp_path):
    """A block that is skipped passes on what entered it; at full size the features are the block's own."""
    settings = dict(num_classes=5, noise_scheduler=dict(type='DDPMScheduler', beta_schedule='linear'))
    torch.manual_seed(0)
    teacher = MODELS.build(dict(type='DiffusionModel', unet=dict(
        type='UNet', sample_size=8, norm_groups=4, stages=[dict(channels=8, blocks=1)]), **settings))
    export_pipeline(teacher, tmp_path / 'teacher')
    model = MODELS.build(dict(
        type='SlimmableDistiller', num_random=0, teacher=dict(checkpoint=str(tmp_path / 'teacher')),
        losses=[dict(type='SpatialLoss', tap={'blocks.2': 'mid'})],
        unet=dict(type='SlimmableDiT', layers=(4, ), depths=(0.5, 1.0), **SIZE), **settings))
    for parameter in model.unet.parameters():
        nn.init.normal_(parameter, std=0.2)
    batch = model.noised_batch(torch.randn(2, 3, 8, 8), torch.tensor([1, 2]))
    for run in runs_of(model.unet):
        with at_run(model.unet, run):
            features = next(value for name, value in model.student_outputs(batch, run).items() if name != 'output')
        assert features.shape == (2, 16, 4, 4)
        kept = features.abs().sum((0, 2, 3)) > 0
        assert kept.sum() == 16 * run.width and kept[:2].all()
    model.seed_step(0)
    terms = model(torch.randn(2, 3, 8, 8), torch.tensor([1, 2]), mode='loss')
    terms['loss'].backward()
    assert any('spatial' in name and name.startswith('narrowest') for name in terms)
    assert bare(model.unet).blocks[2].qkv.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_changes_no_gradient():
    network = build().train()
    args, gradients = inputs(network)[0], []
    for _ in range(2):
        network.zero_grad()
        for run in runs_of(network):
            with at_run(network, run):
                network(*args).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
        network.enable_gradient_checkpointing()
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)

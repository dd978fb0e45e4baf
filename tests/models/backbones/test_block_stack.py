"""Depths and reused features of diffusers' transformers, which know nothing of them, by hand."""

import copy
import json

import pytest
import torch
from diffusers import DiTTransformer2DModel, SD3Transformer2DModel
from foreign_backbones import BACKBONES
from test_families import filled
from test_foreign_backbones import config_of

from slimdiff.cli import export, search, train
from slimdiff.evaluation.unet_cost import network_cost
from slimdiff.export.load import load_trained
from slimdiff.models.backbones.adapt import predict
from slimdiff.models.backbones.block_stack import BlockStack, kept
from slimdiff.models.backbones.load import adapted, build_backbone
from slimdiff.models.backbones.protocol import (
    ReusableFeatures,
    Slimmable,
    at_run,
    example_inputs,
    network_of,
    offers,
    runs_of,
)
from slimdiff.models.backbones.step_aware import make_step_aware
from slimdiff.registry import MODELS
from slimdiff.sampling import Reuse, Run, StepAllocation

PRECONDITIONING = dict(schedule=dict(num_train_timesteps=1000, beta_schedule='linear'), prediction_type='epsilon',
                       sigma_data=0.5)
TRANSFORMERS = [name for name in BACKBONES if 'Transformer2D' in name]


def dit(layers=8):
    return filled(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=4,
                                        num_layers=layers, sample_size=8, patch_size=2, num_embeds_ada_norm=3,
                                        norm_num_groups=2))


@pytest.mark.parametrize('total, depth, blocks', [
    (8, 1.0, list(range(8))), (8, 0.5, [0, 2, 5, 7]), (8, 0.75, [0, 1, 3, 4, 6, 7]), (2, 0.5, [1]), (1, 0.5, [0]),
    (28, 0.5, [0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 27])])
def test_blocks_that_run(total, depth, blocks):
    assert kept(total, depth) == blocks


@pytest.mark.parametrize('preconditioned', [False, True])
def test_depths_are_those_of_the_config(preconditioned):
    def built(depths, type='PixArtTransformer2DModel', **changes):
        unet = {**BACKBONES['PixArtTransformer2DModel']['unet'], 'num_layers': 4} if type[0] == 'P' else changes
        return build_backbone({**unet, 'type': type} | ({} if depths is None else dict(depths=depths)),
                              preconditioning=PRECONDITIONING if preconditioned else None)

    assert runs_of(built([1.0, 0.5])) == (Run(1, 0.5), Run(1)) and runs_of(built(None)) == (Run(1), )
    assert offers(built(None), ReusableFeatures) and not offers(built(None), Slimmable)
    for depths, message in (([0.5], 'and 1.0 among them'), ([0.9, 1.0], 'other numbers of blocks'),
                            ([0.0, 1.0], 'depth=0.0 must be a number in')):
        with pytest.raises(ValueError, match=message):
            built(depths)
    with pytest.raises(ValueError, match=r'unet.depths=\[0.5, 1.0\]: UNet has no list of two or more blocks'):
        built([0.5, 1.0], type='UNet', stages=[dict(channels=32)], sample_size=8)


@pytest.mark.parametrize('preconditioned', [False, True])
@pytest.mark.parametrize('name', TRANSFORMERS)
def test_a_depth_is_the_network_that_is_extracted_and_fresh_features_are_the_whole(name, preconditioned):
    unet = {**BACKBONES[name]['unet'], 'depths': [0.5, 1.0]}
    model = MODELS.build(dict(type='DiffusionModel', unet=unet, **BACKBONES[name]['model'],
                              sigma_data=0.5 if preconditioned else None)).eval()
    network, inputs = filled(model.unet), example_inputs(model.unet, 2, 3, random=True)
    names = set(network.state_dict())
    with torch.no_grad():
        full = predict(network, **inputs)
        with at_run(network, Run(1, 0.5)):
            half = predict(network, **inputs)
        cut = network_of(network, Run(1, 0.5))
        torch.testing.assert_close(predict(cut, **inputs), half, atol=1e-6, rtol=0)
        assert (half - full).abs().max() > 1e-3 and set(network.state_dict()) == names
        conditions = [inputs.get(key) for key in ('class_labels', 'encoder_hidden_states')]
        output, features = network.with_features(inputs['sample'], inputs['timestep'], *conditions)
        assert torch.equal(output.sample, full)
        same = network.shallow(inputs['sample'], inputs['timestep'], *conditions, features).sample
        other = network.shallow(inputs['sample'] + 1, inputs['timestep'], *conditions, features).sample
        torch.testing.assert_close(same, full, atol=1e-5, rtol=0)
        assert (other - same).abs().max() > 1e-3
    assert network_cost(cut).params < network_cost(network).params


def test_blocks_of_their_own_shape_are_cut_as_by_hand():
    """SD3: the last block ends the text's stream, and the first and the fourth attend twice."""
    arguments = dict(sample_size=8, in_channels=4, out_channels=4, attention_head_dim=4, num_attention_heads=2,
                     joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=6, pos_embed_max_size=8,
                     qk_norm='rms_norm')
    whole = filled(SD3Transformer2DModel(**arguments, num_layers=6, dual_attention_layers=(0, 3)))
    cut = BlockStack(whole, [0.5, 1.0]).extract(1.0, 0.5)  # 0, 2, 5
    by_hand = SD3Transformer2DModel(**arguments, num_layers=3, dual_attention_layers=(0, )).eval()
    for old, new in ((0, 0), (2, 1), (5, 2)):
        by_hand.transformer_blocks[new] = copy.deepcopy(whole.transformer_blocks[old])
    for name, child in whole.named_children():
        if name != 'transformer_blocks':
            setattr(by_hand, name, child)
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 700.0]), torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = by_hand(x, text[:, 1:], text[:, 0, :6], t).sample
        torch.testing.assert_close(predict(adapted(cut), x, t, encoder_hidden_states=text), expected)


def test_features_are_what_all_blocks_but_the_first_add():
    network, entered = dit(4), []
    whole = adapted(network)
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), torch.tensor([0, 3])
    handles = [network.transformer_blocks[1].register_forward_pre_hook(lambda m, args: entered.append(args[0])),
               network.transformer_blocks[3].register_forward_hook(lambda m, args, out: entered.append(out))]
    with torch.no_grad():
        _, features = whole.with_features(x, t, labels)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(features, (entered[1] - entered[0]).flatten(1))
    assert not any('forward' in vars(block) for block in network.transformer_blocks)


def test_macs_of_a_depth_by_hand():
    costs = {layers: network_cost(adapted(dit(layers))).conv_linear_macs for layers in (7, 8)}
    block = costs[8] - costs[7]
    cut = BlockStack(dit(8), [0.75, 1.0]).extract(1.0, 0.75)
    assert network_cost(adapted(cut)).conv_linear_macs == costs[8] - 2 * block


def test_trained_searched_and_exported_with_depths_and_features(tmp_path):
    """PixArt by the sandwich rule over its depths; its step-aware folder gives the images of the searched model."""
    config = config_of('PixArtTransformer2DModel', 0.5, type='SlimmableDiffusion', num_random=0)
    config.model.unet.update(num_layers=4, depths=(0.5, 0.75, 1.0))
    config.search.space = dict(num_segments=2, reuse=['features'])
    config.dump(tmp_path / 'config.py')
    arguments = [str(tmp_path / 'config.py'), str(tmp_path / 'run/iter_2.pth')]
    assert train.main([arguments[0], '--work-dir', str(tmp_path / 'run')]) == 0
    assert search.main([*arguments, '--work-dir', str(tmp_path / 'search'), '--samples', '0']) == 0
    front = json.loads((tmp_path / 'search/front.json').read_text())
    assert {0.5, 1.0} <= {s.get('depth', 1.0) for entry in front['front'] for s in entry['allocation']['segments']}
    allocation = StepAllocation.from_pieces([300, 600], [Run(1.0, 0.5), Reuse('features'), Run(1.0)])
    allocation.save(tmp_path / 'mine.json')
    assert export.main([*arguments, str(tmp_path / 'out'), '--allocation', str(tmp_path / 'mine.json')]) == 0
    model, reopened = (MODELS.build(config.model).eval() for _ in range(2))
    load_trained(model, arguments[1])
    make_step_aware(model, allocation)
    load_trained(reopened, tmp_path / 'out')
    torch.testing.assert_close(reopened.sample([0, 1]), model.sample([0, 1]), atol=1e-5, rtol=0)

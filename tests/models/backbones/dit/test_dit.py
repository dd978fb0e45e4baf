"""The transformer against diffusers' DiT, a forward pass by hand, and the paper's counts."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn

from slimdiff import DiT, count_macs
from slimdiff.models import computation
from slimdiff.models.backbones.dit.dit import sincos_positions
from slimdiff.models.converters.dit import to_diffusers
from slimdiff.models.resamplers import WaveletGatedDown, WaveletGatedUp
from slimdiff.registry import MODELS

SMALL = dict(sample_size=8, in_channels=3, out_channels=3, num_attention_heads=2, attention_head_dim=8, layers=(3, ),
             num_classes=5, norm_eps=1e-5, freq_shift=1.0)
T, Y = torch.tensor([0, 10, 500, 999]), torch.tensor([0, 3, 5, 1])


def filled(network: nn.Module, std: float = 0.3) -> nn.Module:
    """With random weights everywhere: what starts at zero would hide what is behind it."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std)
    return network.eval()


@pytest.mark.parametrize('height, width', [(8, 8), (12, 12), (16, 16)])
def test_it_is_diffusers_network(height, width):
    """Also at other sizes than that of training, for which positions are spread over the same extent."""
    ours = filled(DiT(**SMALL)).double()
    theirs = to_diffusers(ours).double()
    assert isinstance(theirs, DiTTransformer2DModel)
    x = torch.randn(4, 3, height, width, dtype=torch.double)
    expected = theirs(x, timestep=T, class_labels=Y).sample
    assert expected.std() > 0.5
    torch.testing.assert_close(ours(x, T, Y).sample, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('grid, base', [((4, 4), 4), ((6, 3), 4), ((5, 5), 5)])
def test_positions_are_diffusers(grid, base):
    expected = get_2d_sincos_pos_embed(16, grid, base_size=base, output_type='pt').float()
    torch.testing.assert_close(sincos_positions(16, *grid, (base, base))[0], expected, rtol=0, atol=1e-6)


def test_a_u_shape_by_hand():
    """Tokens merged after the first block, split before the last, and joined with what was left."""
    network = filled(DiT(sample_size=8, in_channels=3, out_channels=3, num_attention_heads=2, attention_head_dim=8,
                         layers=(1, 2, 1)))
    assert isinstance(network.merges[0], WaveletGatedDown) and isinstance(network.splits[0], WaveletGatedUp)
    x = torch.randn(2, 3, 8, 8)
    condition = F.silu(network.time_embedding(network.time_proj(torch.tensor([7, 7]))))

    def as_map(tokens, side):
        return tokens.transpose(1, 2).reshape(2, 16, side, side)

    tokens = network.patch_embedding(x).flatten(2).transpose(1, 2) + network.positions
    left = network.blocks[0](tokens, condition)
    merged = network.merges[0](as_map(left, 4)).flatten(2).transpose(1, 2)
    assert merged.shape == (2, 4, 16)
    for block in network.blocks[1:3]:
        merged = block(merged, condition)
    split = network.splits[0](as_map(merged, 2)).flatten(2).transpose(1, 2)
    joined = network.blocks[3](network.skips[0](torch.cat([split, left], -1)), condition)
    shift, scale = network.modulation_out(condition)[:, None].chunk(2, -1)
    patches = network.proj_out(F.layer_norm(joined, (16, ), eps=1e-6) * (1 + scale) + shift)
    expected = torch.einsum('nhwpqc->nchpwq', patches.reshape(2, 4, 4, 2, 2, 3)).reshape(2, 3, 8, 8)
    torch.testing.assert_close(network(x, 7).sample, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('layers', [(1, ), (2, ), (5, ), (1, 2, 1), (1, 1, 2, 1, 1)])
def test_the_shallow_part_around_its_own_features_is_the_whole(layers):
    network = filled(DiT(**{**SMALL, 'sample_size': 16, 'layers': layers}), 0.2)
    x = torch.randn(4, 3, 16, 16)
    output, features = network.with_features(x, T, Y)
    torch.testing.assert_close(network.shallow(x, T, Y, None, features).sample, output.sample, rtol=1e-5, atol=1e-5)
    other = network.shallow(x, T, Y, None, torch.zeros_like(features)).sample
    assert len(network.blocks) <= 2 or (other - output.sample).abs().max() > 1e-3


def test_text_enters_by_cross_attention():
    network = filled(DiT(**{**SMALL, 'num_classes': None, 'context_channels': 6}))
    x, context = torch.randn(2, 3, 8, 8), torch.randn(2, 7, 6)
    output = network(x, 5, encoder_hidden_states=context).sample
    # Attention does not know the order of the tokens, and a token that is there twice as often weighs more.
    torch.testing.assert_close(network(x, 5, encoder_hidden_states=context[:, torch.randperm(7)]).sample, output,
                               rtol=1e-4, atol=1e-4)
    assert (network(x, 5, encoder_hidden_states=context[:, :3]).sample - output).abs().max() > 1e-3
    with pytest.raises(ValueError, match='pass encoder_hidden_states'):
        network(x, 5)
    with pytest.raises(ValueError, match='has no cross-attention'):
        DiT(**SMALL)(x, 5, encoder_hidden_states=context)


def test_no_label_is_the_null_class_and_a_new_network_gives_zero():
    network = filled(DiT(**SMALL))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x, 5).sample, network(x, 5, torch.tensor([5, 5])).sample)
    assert not torch.equal(network(x, 5).sample, network(x, 5, torch.tensor([0, 0])).sample)
    assert DiT(**SMALL)(x, 5).sample.abs().max() == 0  # adaLN-Zero
    with pytest.raises(ValueError, match=r'0\.\.4'):
        network(x, 5, torch.tensor([0, 6]))


@pytest.mark.parametrize('layers', [(3, ), (1, 2, 1)])
def test_gradient_checkpointing_changes_no_gradient(layers):
    network = filled(DiT(**{**SMALL, 'layers': layers})).train()
    x, gradients = torch.randn(4, 3, 8, 8), []
    for _ in range(2):
        network.zero_grad()
        network(x, T, Y).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
        network.enable_gradient_checkpointing()
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-6)


def test_published_counts_of_dit_xl_2():
    """675 M parameters and 118.6 GFLOPs, which are MACs (Peebles and Xie 2023, tables 1 and 4)."""
    size = dict(sample_size=32, out_channels=8, num_attention_heads=16, attention_head_dim=72, num_classes=1000)
    with torch.device('meta'):
        assert round(DiT(layers=(28, ), **size).num_parameters() / 1e6) == 675
    one, two = (count_macs(DiT(layers=(n, ), **size)).macs_with_attention for n in (1, 2))
    assert round((one + 27 * (two - one)) / 1e9, 1) == 118.6


@pytest.mark.parametrize('change, message', [
    (dict(layers=(2, 2)), 'odd number of groups'), (dict(layers=(0, )), 'at least one block'),
    (dict(num_attention_heads=1, attention_head_dim=6), 'a multiple of 4'),
    (dict(sample_size=9), 'multiples of 2'), (dict(layers=(1, 1, 1), sample_size=10), 'multiples of 4'),
])
def test_sizes_that_do_not_fit_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        DiT(**{**SMALL, **change})


def test_folders_open_again(tmp_path):
    network = filled(DiT(**{**SMALL, 'layers': (1, 2, 1)}))
    network.save_pretrained(tmp_path)
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(DiT.from_pretrained(tmp_path).eval()(x, T, Y).sample, network(x, T, Y).sample)


def test_another_sample_size_is_another_function_of_the_same_weights():
    """Positions are measured in it, so weights of one size under a config of another are refused."""
    models = [MODELS.build(dict(type='DiffusionModel', num_classes=5, noise_scheduler=dict(type='DDPMScheduler'),
                                unet=dict(type='DiT', **{**SMALL, 'sample_size': size}))) for size in (8, 16)]
    models[1].load_state_dict(models[0].state_dict())  # the shapes are the same
    computation.check_same(computation.of_model(models[0]), models[0], 'weights')
    with pytest.raises(computation.ComputationError, match=r'sample_size: 8 \(checkpoint\), 16 \(config\)'):
        computation.check_same(computation.of_model(models[0]), models[1], 'weights')

"""Transformers of other implementations against a forward pass in DiT's own names, and diffusers' network."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from slimdiff import DiT
from slimdiff.checkpoint import CheckpointError
from slimdiff.models.backbones.dit.dit import sincos_positions
from slimdiff.models.converters.dit import from_diffusers, from_original, is_dit, to_diffusers

C, HEADS, DEPTH, CLASSES, PATCH, SIDE = 16, 2, 2, 5, 2, 4


def original_state() -> dict[str, torch.Tensor]:
    """Random weights under the names of DiT's code, with a learned variance."""
    generator = torch.Generator().manual_seed(0)
    shapes = {'x_embedder.proj': (C, 4, PATCH, PATCH), 't_embedder.mlp.0': (C, 256), 't_embedder.mlp.2': (C, C),
              'final_layer.adaLN_modulation.1': (2 * C, C), 'final_layer.linear': (PATCH**2 * 8, C)}
    for i in range(DEPTH):
        shapes |= {f'blocks.{i}.attn.qkv': (3 * C, C), f'blocks.{i}.attn.proj': (C, C),
                   f'blocks.{i}.mlp.fc1': (4 * C, C), f'blocks.{i}.mlp.fc2': (C, 4 * C),
                   f'blocks.{i}.adaLN_modulation.1': (6 * C, C)}
    state = {f'{name}.weight': 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state |= {f'{name}.bias': 0.3 * torch.randn(shape[0], generator=generator) for name, shape in shapes.items()}
    return state | {'y_embedder.embedding_table.weight': torch.randn(CLASSES + 1, C, generator=generator),
                    'pos_embed': sincos_positions(C, SIDE, SIDE, (SIDE, SIDE))}


def reference(state, x, t, y):
    """DiT's forward pass (Peebles and Xie 2023, section 3.2), all channels."""

    def linear(name, value):
        return F.linear(value, state[f'{name}.weight'], state[f'{name}.bias'])

    def norm(value, shift, scale):
        return F.layer_norm(value, (C, ), eps=1e-6) * (1 + scale) + shift

    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    c = linear('t_embedder.mlp.2', F.silu(linear('t_embedder.mlp.0', torch.cat([angles.cos(), angles.sin()], -1))))
    c = F.silu(c + state['y_embedder.embedding_table.weight'][y])[:, None]
    h = F.conv2d(x, state['x_embedder.proj.weight'], state['x_embedder.proj.bias'], stride=PATCH)
    h = h.flatten(2).transpose(1, 2) + state['pos_embed']
    for i in range(DEPTH):
        block = f'blocks.{i}'
        s1, k1, g1, s2, k2, g2 = linear(f'{block}.adaLN_modulation.1', c).chunk(6, -1)
        q, k, v = linear(f'{block}.attn.qkv', norm(h, s1, k1)).reshape(len(x), -1, 3, HEADS, C // HEADS).permute(
            2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / (C // HEADS)**0.5).softmax(-1)
        h = h + g1 * linear(f'{block}.attn.proj', (weights @ v).transpose(1, 2).flatten(2))
        h = h + g2 * linear(f'{block}.mlp.fc2', F.gelu(linear(f'{block}.mlp.fc1', norm(h, s2, k2)), approximate='tanh'))
    shift, scale = linear('final_layer.adaLN_modulation.1', c).chunk(2, -1)
    patches = linear('final_layer.linear', norm(h, shift, scale)).reshape(len(x), SIDE, SIDE, PATCH, PATCH, 8)
    return torch.einsum('nhwpqc->nchpwq', patches).reshape(len(x), 8, SIDE * PATCH, SIDE * PATCH)


X, Y = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 4, 5])


def test_a_checkpoint_of_dit():
    state, t = original_state(), torch.tensor([0., 300., 999.])
    expected = reference(state, X, t, Y)
    assert is_dit(state) and expected.std() > 0.5
    whole = from_original(state, flow=False, heads=HEADS, mean_only=False)
    torch.testing.assert_close(whole(X, t, Y).sample, expected, rtol=1e-5, atol=1e-5)
    mean = from_original(state, flow=False, heads=HEADS)
    assert mean.config.out_channels == 4
    torch.testing.assert_close(mean(X, t, Y).sample, expected[:, :4], rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_sit():
    """Its time is 1 - s where ours is 1,000 s, and it predicts data - noise."""
    state, s = original_state(), torch.tensor([0., 0.3, 1.])
    expected = -reference(state, X, 1 - s, Y)[:, :4]
    torch.testing.assert_close(from_original(state, flow=True, heads=HEADS)(X, 1000 * s, Y).sample, expected,
                               rtol=1e-4, atol=1e-4)


def test_files_that_are_not_dit():
    state = original_state()
    assert not is_dit({'x_embedder.proj.weight': None})
    del state['blocks.1.mlp.fc1.bias']
    with pytest.raises(CheckpointError, match=r'1 of its 31 weights .* blocks\.1\.up\.bias'):
        from_original(state, flow=False, heads=HEADS)


@pytest.mark.parametrize('change, message', [
    (lambda state: state.update({'blocks.0.attn.q_norm.weight': torch.ones(8)}),
     r'has 1 other weights, such as blocks\.0\.attn\.q_norm\.weight'),
    (lambda state: state.pop('y_embedder.embedding_table.weight'), r'lacks y_embedder\.embedding_table\.weight'),
    (lambda state: state.pop('pos_embed'), 'lacks pos_embed')])
def test_variants_of_dit_are_refused(change, message):
    """A network that computes something else is not converted into one that ignores its weights."""
    state = original_state()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        from_original(state, flow=False, heads=HEADS)
    state = original_state() | {'projectors.0.0.weight': torch.ones(2)}  # REPA's, which only its loss reads
    from_original(state, flow=False, heads=HEADS)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    ours = DiT(sample_size=8, in_channels=3, out_channels=3, num_attention_heads=2, attention_head_dim=8, layers=(2, ),
               num_classes=5, norm_eps=1e-5, freq_shift=1.0)
    back = from_diffusers(to_diffusers(ours).to(dtype))
    assert back.dtype == dtype and torch.equal(back.proj_out.weight, ours.proj_out.weight.to(dtype))


def test_there_and_back():
    torch.manual_seed(0)
    ours = DiT(sample_size=8, in_channels=3, out_channels=3, num_attention_heads=2, attention_head_dim=8, layers=(3, ),
               num_classes=5, norm_eps=1e-5, freq_shift=1.0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    back = from_diffusers(to_diffusers(ours))
    assert back.config.layers == [3] or tuple(back.config.layers) == (3, )
    for name, value in ours.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_what_diffusers_cannot_compute_is_said():
    for change, message in ((dict(layers=(1, 1, 1)), 'layers='), (dict(freq_shift=0.0), 'freq_shift=0.0'),
                            (dict(num_classes=None), 'num_classes=None')):
        network = DiT(**{**dict(sample_size=8, num_attention_heads=2, attention_head_dim=8, layers=(2, ), num_classes=5,
                                freq_shift=1.0), **change})
        with pytest.raises(ValueError, match=message):
            to_diffusers(network)
    theirs = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3,
                                   num_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=5)
    with pytest.raises(CheckpointError, match='each in its own way'):
        from_diffusers(theirs)


@torch.no_grad()
def test_diffusers_pipeline_samples_it():
    """DiTPipeline, which knows ImageNet's 1,000 classes, gives what our network gives step by step."""
    torch.manual_seed(0)
    network = DiT(sample_size=8, in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
                  layers=(2, ), num_classes=1000, freq_shift=1.0).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    vae = AutoencoderKL(block_out_channels=(8, ), norm_num_groups=4, latent_channels=4).eval()
    scheduler = DDIMScheduler(clip_sample=False)
    pipeline = DiTPipeline(to_diffusers(network), vae, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline([3, 999], guidance_scale=1.0, num_inference_steps=3, output_type='pt',
                     generator=torch.Generator().manual_seed(5)).images
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    scheduler.set_timesteps(3)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t, torch.tensor([3, 999])).sample, t, x).prev_sample
    expected = (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('change, message', [
    (dict(norm_elementwise_affine=True), 'it also has transformer_blocks.0.norm'),
    (dict(activation_fn='linear-silu'), 'the same weights compute something else'),
    (dict(attention_bias=False), 'missing or of another shape, such as blocks.0.qkv.bias')])
def test_blocks_that_ours_has_not_are_refused(change, message):
    theirs = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2,
                                   sample_size=8, num_embeds_ada_norm=CLASSES, norm_eps=1e-6, **change)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    first = theirs.transformer_blocks[0].norm1.emb
    theirs.transformer_blocks[1].norm1.emb.load_state_dict(first.state_dict())
    with pytest.raises((ValueError, CheckpointError), match=message):
        from_diffusers(theirs)

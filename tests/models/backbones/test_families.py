"""SD3, FLUX and Lumina2 through our denoising loop against the pipelines that diffusers has for them."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from slimdiff.models.backbones.adapt import predict
from slimdiff.models.backbones.families import pack, unpack
from slimdiff.models.backbones.load import adapted, load_folder
from slimdiff.registry import MODELS
from slimdiff.sampling import build_scheduler, denoise


def vae():
    return AutoencoderKL(block_out_channels=(4, 4), in_channels=3, out_channels=3, norm_num_groups=2,
                         down_block_types=('DownEncoderBlock2D', ) * 2, up_block_types=('UpDecoderBlock2D', ) * 2,
                         latent_channels=4)


def filled(network):
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network.eval()


def sd3(text, noise):
    network = SD3Transformer2DModel(sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4,
                                    num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8,
                                    pooled_projection_dim=6, pos_embed_max_size=8)
    pipe = StableDiffusion3Pipeline(filled(network), FlowMatchEulerDiscreteScheduler(), vae(), *[None] * 6)
    return pipe, dict(prompt_embeds=text[:, 1:], pooled_prompt_embeds=text[:, 0, :6], guidance_scale=1.0,
                      latents=noise)


def flux(text, noise):
    network = FluxTransformer2DModel(in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=8,
                                     num_attention_heads=2, joint_attention_dim=8, pooled_projection_dim=6,
                                     guidance_embeds=True, axes_dims_rope=(2, 2, 4))
    pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(), vae(), *[None] * 4, filled(network))
    return pipe, dict(prompt_embeds=text[:, 1:], pooled_prompt_embeds=text[:, 0, :6],
                      latents=FluxPipeline._pack_latents(noise, *noise.shape))


def lumina2(text, noise):
    network = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(16, 8, 8), cap_feat_dim=8)
    pipe = Lumina2Pipeline(filled(network), FlowMatchEulerDiscreteScheduler(), vae(), None, None)
    mask = torch.ones(text.shape[:2], dtype=torch.bool)
    return pipe, dict(prompt_embeds=text, prompt_attention_mask=mask, guidance_scale=1.0, latents=noise)


@pytest.mark.parametrize('make', [sd3, flux, lumina2])
def test_our_loop_samples_as_the_pipeline_does(make, tmp_path):
    """The network's folder, opened by its class, on maps and a context of three rows."""
    generator = torch.Generator().manual_seed(0)
    noise, text = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 3, 8)))
    pipe, inputs = make(text, noise)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.save_pretrained(tmp_path)
    network, levels = load_folder(tmp_path), [1.0, 0.7, 0.3]
    with torch.no_grad():
        expected = pipe(num_inference_steps=3, sigmas=levels, output_type='latent', height=16, width=16,
                        **inputs).images
        sampler = build_scheduler(dict(sigmas=levels), base=FlowMatchEulerDiscreteScheduler())
        found = denoise(lambda x, t: predict(network, x, t, encoder_hidden_states=text), sampler, noise, 3)
    expected = expected if make is not flux else FluxPipeline._unpack_latents(expected, 16, 16, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - noise).std() > 0.1


@pytest.mark.parametrize('make', [sd3, flux])
def test_a_pipelines_folder_teaches(make, tmp_path):
    """transformer/ and scheduler/ as they are published: a student of a quarter of the size, at the output."""
    pipe, _ = make(torch.zeros(2, 3, 8), torch.zeros(2, 4, 8, 8))
    pipe.transformer.save_pretrained(tmp_path / 'transformer')
    pipe.scheduler.save_pretrained(tmp_path / 'scheduler')
    student = dict(type='SD3Transformer2DModel', sample_size=8, in_channels=4, out_channels=4, num_layers=1,
                   attention_head_dim=4, num_attention_heads=1, joint_attention_dim=8, caption_projection_dim=4,
                   pooled_projection_dim=6, pos_embed_max_size=8)
    model = MODELS.build(dict(
        type='Distiller', unet=student, noise_scheduler=dict(type='FlowMatchEulerDiscreteScheduler'),
        sampler=dict(type='FlowMatchEulerDiscreteScheduler'), sigma_data=None, teacher=dict(checkpoint=str(tmp_path)),
        conditioner=dict(type='RandomText', channels=8), losses=[dict(type='SpatialLoss', tap='output', weight=1.0)]))
    model.seed_step(0)
    batch = model.noised_batch(torch.randn(2, 4, 8, 8), caption=['a cat', 'a dog'])
    terms = model.loss_terms(batch)
    with torch.no_grad():
        taught = predict(adapted(pipe.transformer), batch.x_t, batch.t, encoder_hidden_states=batch.context)
        own = model.predict(batch.x_t, batch.t, context=batch.context)
    torch.testing.assert_close(terms['spatial_output'].detach(), (own - taught).square().mean(), rtol=1e-4, atol=0)
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for name, parameter in model.unet.named_parameters()
               if 'context_embedder' in name or 'proj_out' in name)


def test_patches_of_flux():
    maps = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(pack(maps), FluxPipeline._pack_latents(maps, *maps.shape))
    assert torch.equal(unpack(pack(maps), maps), maps)
    with pytest.raises(ValueError, match=r'maps of even sides, .* got \(3, 4\)'):
        pack(maps[:, :, :3, :4])


@pytest.mark.parametrize('context', [None, torch.zeros(2, 1, 8), torch.zeros(2, 3, 5)])
def test_a_context_without_a_pooled_vector_is_refused(context):
    network = adapted(sd3(torch.zeros(2, 3, 8), torch.zeros(2, 4, 8, 8))[0].transformer)
    with pytest.raises(ValueError, match=r'SD3Transformer2DModel needs a context \(N, 1 \+ S, D\) whose first row'):
        predict(network, torch.zeros(2, 4, 8, 8), torch.tensor([500.0, 500.0]), encoder_hidden_states=context)

"""Tiny random pipelines of diffusers' own classes, shaped as SD 1.5, SDXL, PixArt, SD3, FLUX and DiT."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

STEPS = 6


def vae(channels=4):
    return AutoencoderKL(block_out_channels=(4, 4), in_channels=3, out_channels=3, norm_num_groups=2,
                         down_block_types=('DownEncoderBlock2D', ) * 2, up_block_types=('UpDecoderBlock2D', ) * 2,
                         latent_channels=channels, shift_factor=0.0)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet(**options):
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(4, 8, 8), layers_per_block=1,
        norm_num_groups=2, cross_attention_dim=8, attention_head_dim=2,
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'), **options)


def sd15():
    sampler = DDIMScheduler(clip_sample=False, steps_offset=1)
    pipe = StableDiffusionPipeline(vae(), None, None, unet(), sampler, None, None, requires_safety_checker=False)
    return pipe, dict(prompt_embeds=randn(2, 3, 8), negative_prompt_embeds=randn(2, 3, 8, seed=1), guidance_scale=3.0)


def sdxl():
    network = unet(addition_embed_type='text_time', addition_time_embed_dim=4,
                   projection_class_embeddings_input_dim=6 * 4 + 8)
    pipe = StableDiffusionXLPipeline(vae(), None, None, None, None, network, EulerDiscreteScheduler())
    return pipe, dict(prompt_embeds=randn(2, 3, 8), negative_prompt_embeds=randn(2, 3, 8, seed=1),
                      pooled_prompt_embeds=randn(2, 8), negative_pooled_prompt_embeds=randn(2, 8, seed=1),
                      guidance_scale=3.0, height=16, width=16)


def pixart():
    network = PixArtTransformer2DModel(sample_size=8, num_layers=4, num_attention_heads=2, attention_head_dim=4,
                                       in_channels=4, out_channels=8, cross_attention_dim=8, caption_channels=8,
                                       use_additional_conditions=False)
    pipe = PixArtAlphaPipeline(None, None, vae(), network, DDIMScheduler(clip_sample=False, steps_offset=1))
    mask = torch.ones(2, 3)
    return pipe, dict(prompt_embeds=randn(2, 3, 8), prompt_attention_mask=mask, negative_prompt=None,
                      negative_prompt_embeds=randn(2, 3, 8, seed=1), negative_prompt_attention_mask=mask,
                      guidance_scale=3.0, height=16, width=16, use_resolution_binning=False)


def sd3():
    network = SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, num_layers=4, attention_head_dim=4,
                                    num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8,
                                    pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8)
    pipe = StableDiffusion3Pipeline(network, FlowMatchEulerDiscreteScheduler(shift=3.0), vae(), None, None, None, None,
                                    None, None)
    return pipe, dict(prompt_embeds=randn(2, 3, 8), negative_prompt_embeds=randn(2, 3, 8, seed=1),
                      pooled_prompt_embeds=randn(2, 8), negative_pooled_prompt_embeds=randn(2, 8, seed=1),
                      guidance_scale=3.0, height=16, width=16)


def flux():
    network = FluxTransformer2DModel(patch_size=1, in_channels=16, num_layers=2, num_single_layers=3,
                                     attention_head_dim=8, num_attention_heads=2, joint_attention_dim=8,
                                     pooled_projection_dim=8, axes_dims_rope=(2, 2, 4))
    pipe = FluxPipeline(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae(), None, None, None, None,
                        network)
    return pipe, dict(prompt_embeds=randn(2, 3, 8), pooled_prompt_embeds=randn(2, 8), height=16, width=16)


def dit():
    network = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8,
                                    num_layers=4, sample_size=8, num_embeds_ada_norm=1000, patch_size=2)
    pipe = DiTPipeline(network, vae(), DDIMScheduler(clip_sample=False, steps_offset=1))
    return pipe, dict(class_labels=[1, 2], guidance_scale=3.0)


ALL = dict(sd15=sd15, sdxl=sdxl, pixart=pixart, sd3=sd3, flux=flux, dit=dit)


def made(name, seed=0):
    """A pipeline, and ``sample(**more)``: images of it (N, H, W, C) as numpy."""
    torch.manual_seed(seed)
    pipe, inputs = ALL[name]()
    pipe.set_progress_bar_config(disable=True)
    # Most of a new network is near zero, which hides what is reused.
    network = getattr(pipe, 'unet', None) or pipe.transformer
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    network.eval()

    def sample(**more):
        generators = [torch.Generator().manual_seed(i) for i in range(more.pop('count', 2))]
        return pipe(**{**inputs, 'num_inference_steps': STEPS, 'generator': generators, 'output_type': 'np',
                       **more}).images

    return pipe, sample

# Latent diffusion on 64x64x3 latents: 256x256 images through the VQ first stage of factor 4 (8,192 codes of width 3).
# docs/en/user_guides/latents.md says how to get it.

model = dict(
    type='DiffusionModel',
    # LDM's "linear" schedule is linear in sqrt(beta), diffusers' `scaled_linear`.
    noise_scheduler=dict(
        type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0195, clip_sample=False),
    sampler=dict(type='DDIMScheduler', set_alpha_to_one=False, steps_offset=1),
    num_steps=200,
    # The bare network, as in the papers. 0.5 or so adds the output preconditioning of the small configs here.
    sigma_data=None,
    # Latents are not quantised, and not scaled; diffusers' own default for such a model, 0.18215, is wrong for it.
    autoencoder=dict(type='VQAutoencoder', checkpoint='checkpoints/first_stages/vq-f4', latent_scale=1.0),
    unet=dict(type='UNet', sample_size=64, in_channels=3, out_channels=3))

# Latent diffusion on 32x32x4 latents: 256x256 images through the KL first stage of factor 8.
# docs/en/user_guides/latents.md says how to get it.

model = dict(
    type='DiffusionModel',
    # LDM's "linear" schedule is linear in sqrt(beta), diffusers' `scaled_linear`.
    noise_scheduler=dict(
        type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=0.0015, beta_end=0.0155, clip_sample=False),
    sampler=dict(type='DDIMScheduler', set_alpha_to_one=False, steps_offset=1),
    num_steps=200,
    # The bare network, as in the papers. 0.5 or so adds the output preconditioning of the small configs here.
    sigma_data=None,
    autoencoder=dict(type='KLAutoencoder', checkpoint='checkpoints/first_stages/kl-f8', latent_scale=0.18215),
    unet=dict(type='UNet', sample_size=32, in_channels=4, out_channels=4))

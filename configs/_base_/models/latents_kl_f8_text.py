# Text to image on 32x32x4 latents: the KL first stage of factor 8, and the noise schedule of LDM's txt2img-1p4B.

model = dict(
    type='DiffusionModel',
    noise_scheduler=dict(
        type='DDPMScheduler', beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012, clip_sample=False),
    sampler=dict(type='DDIMScheduler', set_alpha_to_one=False, steps_offset=1),
    num_steps=200,
    guidance_scale=2.0,  # Yang et al. 2023, supplement, table 3
    sigma_data=None,
    autoencoder=dict(type='KLAutoencoder', checkpoint='checkpoints/first_stages/kl-f8', latent_scale=0.18215),
    sample_captions=[
        'a photo of a cat on a mat', 'a bowl of fruit', 'a red bus in a street', 'people on a beach',
        'a mountain at sunset', 'a plate with food',
    ],
    unet=dict(type='UNet', sample_size=32, in_channels=4, out_channels=4))

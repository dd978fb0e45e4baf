# What the 32x32 PhotoPatches models share; configs/{ldm,lite_ldm,sd}/photo_patches*.py say the UNet's widths and
# resamplers.

model = dict(
    type='DiffusionModel',
    num_classes=12,  # the default photos of PhotoPatches
    class_dropout=0.1,
    noise_scheduler=dict(type='DDPMScheduler', beta_schedule='linear'),  # Ho et al. 2020, for pixels
    # The least error at this number of steps: docs/en/user_guides/samplers.md.
    sampler=dict(type='DPMSolverMultistepScheduler'),
    num_steps=50,
    # Standard deviation of the patches: without this preconditioning small networks keep a colour error at high noise.
    sigma_data=0.5,
    unet=dict(
        type='UNet',
        sample_size=32,
        norm_groups=4,
        mid_heads=4))

# What the 32x32 Fashion-MNIST models share; configs/{ldm,lite_ldm,sd,ddsm}/fashion_mnist*.py say the UNet's widths and
# resamplers.

model = dict(
    type='DiffusionModel',
    num_classes=10,
    class_dropout=0.1,
    noise_scheduler=dict(type='DDPMScheduler', beta_schedule='linear', beta_start=1e-4, beta_end=0.02),  # Ho et al.
    # A second-order sampler: the error of 25 steps is below the differences between networks (docs: metrics).
    sampler=dict(type='DPMSolverMultistepScheduler'),
    num_steps=25,
    sigma_data=0.66,  # of the pixels in [-1, 1], the padding included
    unet=dict(
        type='UNet',
        sample_size=32,
        in_channels=1,
        out_channels=1,
        norm_groups=4,
        mid_heads=4))

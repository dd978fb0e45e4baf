# What the step-aware models in pixels share (Yang et al., ICLR 2024): DDPM's UNet at four widths.

model = dict(
    type='SlimmableDiffusion',
    # One width between the widest and the narrowest in an iteration, each with noise of its own (section 3.2).
    num_random=1,
    fresh_noise=True,
    unet=dict(
        type='SlimmableUNet',
        widths=(0.25, 0.5, 0.75, 1.0),
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')),
    noise_scheduler=dict(type='DDPMScheduler', beta_schedule='linear', beta_start=1e-4, beta_end=0.02),
    sampler=dict(type='DPMSolverMultistepScheduler'),  # the least error at 100 steps: docs/en/user_guides/samplers.md
    num_steps=100,
    # The paper's network predicts the noise and nothing else: no preconditioning.
    sigma_data=None)

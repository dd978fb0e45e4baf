# The first job: slim the shipped teacher of 303 M MACs to a wavelet-gated network of 15.5 M, on the embedded
# photographs, in two to three minutes on two CPU cores.
#   slimdiff train configs/sd/photo_patches_quick.py
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches_quick.py',
    '../_base_/runtime_quick.py',
]

model = dict(
    # It begins as a quarter of the teacher's channels, the most important ones, so it has a quarter of the teacher's
    # width. Only its resamplers, which are of another kind, start at random. In so short a run distillation does not
    # pay: it costs a quarter of the iterations (docs/en/user_guides/slim_a_model.md).
    start_from='configs/ldm/photo_patches_weights',
    sampler=dict(type='DPMSolverMultistepScheduler'),
    num_steps=20,
    guidance_scale=2.0,
    unet=dict(
        norm_groups=2,
        time_channels=32,
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=24, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

# The plain network of equal MACs after as many iterations (configs/lite_ldm/photo_patches_quick.py).
default_hooks = dict(report=dict(beside=dict(Lite='configs/lite_ldm/photo_patches_quick.json')))

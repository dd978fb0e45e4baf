# The plain small UNet ("Lite") to compare configs/sd/photo_patches_quick.py with: 16.0 M MACs. Its
# metrics after as many iterations are in photo_patches_quick.json.
#   slimdiff train configs/lite_ldm/photo_patches_quick.py
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches_quick.py',
    '../_base_/runtime_quick.py',
]

model = dict(
    sampler=dict(type='DPMSolverMultistepScheduler'),
    num_steps=20,
    guidance_scale=2.0,
    unet=dict(
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=12, blocks=1, up_blocks=2),
            dict(channels=24, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

# The plain small UNet ("Lite") to compare configs/sd/ffhq_ldm-layout.py with: the layout of the teacher, with few
# channels and its own resamplers, trained without distillation.
_base_ = [
    '../_base_/models/latents_vq_f4.py',
    '../_base_/datasets/ffhq_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    unet=dict(
        stages=[
            dict(channels=64, blocks=2, up_blocks=3),
            dict(channels=128, blocks=2, up_blocks=3, heads=4),
            dict(channels=192, blocks=2, up_blocks=3, heads=6),
            dict(channels=256, blocks=2, up_blocks=3, downsample=False, heads=8),
        ],
        mid_heads=8,
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

# The plain small UNet ("Lite") to compare configs/sd/imagenet_ldm-layout.py with: the layout of the teacher
# with few channels and its own resamplers, trained without distillation.
_base_ = [
    '../_base_/models/latents_vq_f4.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/sd_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_classes=1000,  # and the null class, label 1000
    guidance_scale=3.0,  # table 3
    unet=dict(
        stages=[
            dict(channels=64, blocks=2, up_blocks=3),
            dict(channels=128, blocks=2, up_blocks=3, heads=1, cross_attention=True),
            dict(channels=192, blocks=2, up_blocks=3, heads=1, cross_attention=True),
            dict(channels=320, blocks=2, up_blocks=3, downsample=False, heads=1, cross_attention=True),
        ],
        mid_heads=1,
        mid_cross_attention=True,
        class_token=True,
        context_channels=512,
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

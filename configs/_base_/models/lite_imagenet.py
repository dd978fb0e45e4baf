# The layout of configs/ldm/imagenet.py with 64 channels in place of 192.
_base_ = './latents_vq_f4.py'

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

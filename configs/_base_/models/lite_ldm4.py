# The layout of ldm4.py with 64 channels in place of 224.
_base_ = './latents_vq_f4.py'

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

# The plain small UNet to compare configs/sd/photo_patches.py with: convolutional resamplers, and the last stage
# narrower, so that both take 76 M MACs. Everything else is the same.
_base_ = '../sd/photo_patches.py'

model = dict(
    unet=dict(
        stages=[
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=48, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(_delete_=True, type='ConvDown'),
        upsampler=dict(_delete_=True, type='NearestConvUp')))

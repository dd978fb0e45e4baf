# The plain small UNet without its skip connections: 5.7 M MACs and 182 k parameters, against 6.0 M and 174 k with them.
# The way up has fewer input channels without skips; the wider last stage (36, not 32 channels) makes up for it.
_base_ = './photo_patches_16px.py'

model = dict(
    unet=dict(
        stages=[
            dict(channels=8, blocks=1, up_blocks=2, skips=0),
            dict(channels=16, blocks=1, up_blocks=2, skips=0),
            dict(channels=36, blocks=1, up_blocks=2, skips=0, downsample=False, heads=4),
        ]))

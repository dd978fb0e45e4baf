# What the slimmable models of patches share: four widths, trained by the sandwich rule.
_base_ = './photo_patches.py'

model = dict(
    type='SlimmableDiffusion',
    num_random=1,  # besides the widest and the narrowest, as DDSM
    unet=dict(
        type='SlimmableUNet',
        widths=(0.25, 0.5, 0.75, 1.0),
        # Four bands each keep a quarter where a network is wavelet-gated: multiples of 16 below the first stage.
        stages=[
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=64, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

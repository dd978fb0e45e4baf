# The plain small UNet ("Lite") on 16x16 patches: 6.0 M MACs, as the wavelet nets of configs/sd/*_16px*.py.
_base_ = [
    '../_base_/models/photo_patches_16px.py',
    '../_base_/datasets/photo_patches_16px.py',
    '../_base_/schedules/photo_patches_16px.py',
    '../_base_/runtime_16px.py',
]

model = dict(
    unet=dict(
        # The LDM layout: one block down, two up, and no down-sampler in the last stage.
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

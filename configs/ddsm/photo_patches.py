# A step-aware model on 32x32 patches: configs/ddsm/photo_patches_16px.py at the other size.
#   python tools/train.py configs/ddsm/photo_patches.py
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_32px.py',
]

model = dict(
    type='SlimmableDiffusion',
    num_random=1,  # besides the widest and the narrowest, as DDSM
    unet=dict(
        type='SlimmableUNet',
        widths=(0.25, 0.5, 0.75, 1.0),
        stages=[
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=64, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

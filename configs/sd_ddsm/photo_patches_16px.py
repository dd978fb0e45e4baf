# Both slimmings at once, on 16x16 patches: wavelet-gated, slimmable, every width distilled from the teacher.
#   python tools/train.py configs/sd_ddsm/photo_patches_16px.py
_base_ = [
    '../_base_/models/photo_patches_16px.py',
    '../_base_/datasets/photo_patches_16px.py',
    '../_base_/schedules/photo_patches_16px.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_16px.py',
]

model = dict(
    type='SlimmableDistiller',
    num_random=1,
    teacher=dict(checkpoint='configs/ldm/photo_patches_16px_teacher', bf16=True),
    # As configs/sd/photo_patches_16px.py has them.
    losses=[
        dict(type='SpatialLoss', tap='output', weight=1.0),
        dict(type='SpectralLoss', tap='output', weight=1.0),
    ],
    unet=dict(
        type='SlimmableUNet',
        widths=(0.25, 0.5, 0.75, 1.0),
        # Four bands each keep a quarter, so the channels below the first stage are multiples of 16.
        stages=[
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=64, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

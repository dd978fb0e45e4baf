# Wavelet gating alone, on 16x16 patches: no distillation. 5.9 M MACs: the wavelet resamplers cost less than
# convolutions, so the last stage is wider than in configs/lite_ldm/photo_patches_16px.py.
_base_ = [
    '../_base_/models/photo_patches_16px.py',
    '../_base_/datasets/photo_patches_16px.py',
    '../_base_/schedules/photo_patches_16px.py',
    '../_base_/runtime_16px.py',
]

model = dict(
    unet=dict(
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=40, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

# Wavelet gating alone, on 32x32 patches: the student of photo_patches.py without its teacher.
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches.py',
    '../_base_/runtime_32px.py',
]

model = dict(
    unet=dict(
        # The LDM layout: one block down, two up, and no down-sampler in the last stage. The wavelet resamplers cost
        # less than convolutions, so the last stage is wider than in configs/lite_ldm/photo_patches.py.
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=40, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

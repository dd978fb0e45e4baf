# Wavelet-gated UNet on 32x32 PhotoPatches: minutes on two CPU cores. 76 M MACs, as configs/lite_ldm/photo_patches.py.
#   python tools/train.py configs/sd/photo_patches.py
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches.py',
    '../_base_/default_runtime.py',
]

model = dict(
    unet=dict(
        # The LDM layout: one block down, two up, and no down-sampler in the last stage.
        stages=[
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=64, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

# A short run: an average over the last few hundred iterations, a grid and a checkpoint every 500.
default_hooks = dict(
    ema=dict(decay=0.998),
    checkpoint=dict(interval=500),
    samples=dict(interval=500, num_steps=25),
    spectra=dict(interval=1500, num_steps=25))

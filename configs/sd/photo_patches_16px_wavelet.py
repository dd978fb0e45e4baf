# Wavelets without gates, on 16x16 patches: the ablation of the gate. No distillation.
_base_ = './photo_patches_16px_gated.py'

model = dict(
    unet=dict(
        downsampler=dict(_delete_=True, type='WaveletDown'),
        upsampler=dict(_delete_=True, type='WaveletUp')))

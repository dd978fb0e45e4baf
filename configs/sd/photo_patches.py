# Spectral diffusion on 32x32 PhotoPatches: a wavelet-gated student of 23.7 M MACs learns from the shipped teacher of
# 303 M (configs/ldm/photo_patches.py). Minutes on two CPU cores.
#   python tools/train.py configs/sd/photo_patches.py
_base_ = ['./photo_patches_gated.py', '../_base_/models/output_losses.py']

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/photo_patches_weights', bf16=True),
    losses=_base_.output_losses)

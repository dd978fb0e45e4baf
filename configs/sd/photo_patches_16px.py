# Spectral diffusion on 16x16 patches: wavelet gating, and distillation in space and frequency.
#   python tools/train.py configs/sd/photo_patches_16px.py
_base_ = ['./photo_patches_16px_gated.py', '../_base_/models/output_losses.py']

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/photo_patches_16px_weights', bf16=True),
    losses=_base_.output_losses)

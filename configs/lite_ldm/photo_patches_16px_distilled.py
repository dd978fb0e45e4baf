# The plain small UNet with the same distillation as configs/sd/photo_patches_16px.py: what the wavelets add to it.
_base_ = ['./photo_patches_16px.py', '../_base_/models/output_losses.py']

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/photo_patches_16px_weights', bf16=True),
    losses=_base_.output_losses)

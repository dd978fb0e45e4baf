# The plain small UNet with the same distillation as configs/sd/photo_patches_16px.py: what the wavelets add to it.
_base_ = './photo_patches_16px.py'

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/photo_patches_16px_teacher', bf16=True),
    # The paper has 0.1 at output and up1 (supplement, table 1). A network of this size does better with ten times that
    # weight, at the output alone: docs/en/experiments/sd_remedies.md.
    losses=[
        dict(type='SpatialLoss', tap='output', weight=1.0),
        dict(type='SpectralLoss', tap='output', weight=1.0),
    ])

# Ablation of photo_patches_16px.py: the spectrum-aware term alone (lambda_s = 0 in table 1 of the supplement).
_base_ = './photo_patches_16px_gated.py'

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/photo_patches_16px_weights', bf16=True),
    # The paper has 0.1 at output and up1 (supplement, table 1). A network of this size does better with ten times that
    # weight, at the output alone: docs/en/experiments/sd_remedies.md.
    losses=[
        dict(type='SpectralLoss', tap='output', weight=1.0),
    ])

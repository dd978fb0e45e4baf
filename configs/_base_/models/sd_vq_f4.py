# Spectrum-aware distillation as the paper has it, on the latents of latents_vq_f4.py; a config adds its teacher.
_base_ = './latents_vq_f4.py'

model = dict(
    type='Distiller',
    # Supplement, table 1 and section 3.2: both weights 0.1, at the output and at up1.
    losses=[
        dict(type='SpatialLoss', tap=['output', 'up1'], weight=0.1),
        dict(type='SpectralLoss', tap=['output', 'up1'], weight=0.1),
    ])

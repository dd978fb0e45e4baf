# Spectrum-aware distillation as the paper has it, on the latents of latents_kl_f8.py; a config adds its teacher.
_base_ = './latents_kl_f8.py'

model = dict(
    type='Distiller',
    # Supplement, table 1 and section 3.2: both weights 0.1, at the output and at up1.
    losses=[
        dict(type='SpatialLoss', tap=['output', 'up1'], weight=0.1),
        dict(type='SpectralLoss', tap=['output', 'up1'], weight=0.1),
    ])

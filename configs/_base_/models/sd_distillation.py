# Spectrum-aware distillation as the paper has it (supplement, section 3 and table 1); a config adds its teacher.

model = dict(
    type='Distiller',
    losses=[
        dict(type='SpatialLoss', tap=['output', 'up1'], weight=0.1),
        dict(type='SpectralLoss', tap=['output', 'up1'], weight=0.1),
    ])

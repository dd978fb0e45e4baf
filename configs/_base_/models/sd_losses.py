# Spectrum-aware distillation as the paper has it: supplement, table 1 and section 3.2. Both weights are 0.1, at the
# output and at up1.
# Two _base_ files of a config can't both have a `model`, so the losses are a key of their own, which a config names:
# `losses=_base_.sd_losses`.

sd_losses = [
    dict(type='SpatialLoss', tap=['output', 'up1'], weight=0.1),
    dict(type='SpectralLoss', tap=['output', 'up1'], weight=0.1),
]

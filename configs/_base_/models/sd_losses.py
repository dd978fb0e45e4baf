# Spectrum-aware distillation as the paper has it: supplement, table 1 and section 3.2. Both weights are 0.1, at the
# output and at up1.
# Of the _base_ files of a config one alone may have a `model`. So the losses are a key of their own, which the config
# takes away into its model: `losses=_base_.pop('sd_losses')`.

sd_losses = [
    dict(type='SpatialLoss', tap=['output', 'up1'], weight=0.1),
    dict(type='SpectralLoss', tap=['output', 'up1'], weight=0.1),
]

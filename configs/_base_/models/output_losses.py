# Distillation of networks of some 20 M MACs: both terms at the output alone, with ten times the paper's weight (0.1;
# supplement, table 1). docs/en/experiments/sd_remedies.md compares. A config names them: `losses=_base_.output_losses`.

output_losses = [
    dict(type='SpatialLoss', tap='output', weight=1.0),
    dict(type='SpectralLoss', tap='output', weight=1.0),
]

# The plain small UNet with the distillation of configs/sd/fashion_mnist.py: what the wavelets add to it.
_base_ = './fashion_mnist.py'

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/fashion_mnist_teacher', bf16=True),
    # The paper has 0.1 at output and up1 (supplement, table 1). A network of this size does better with ten times that
    # weight, at the output alone: docs/en/experiments/sd_remedies.md.
    losses=[
        dict(type='SpatialLoss', tap='output', weight=1.0),
        dict(type='SpectralLoss', tap='output', weight=1.0),
    ])

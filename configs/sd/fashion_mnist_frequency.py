# Ablation of fashion_mnist.py: the spectrum-aware term alone (lambda_s = 0 in table 1 of the supplement).
_base_ = './fashion_mnist_gated.py'

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/fashion_mnist_weights', bf16=True),
    losses=[dict(type='SpectralLoss', tap='output', weight=1.0)])

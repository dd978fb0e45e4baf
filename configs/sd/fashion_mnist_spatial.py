# Ablation of fashion_mnist.py: the spatial term alone (lambda_f = 0 in table 1 of the supplement).
_base_ = './fashion_mnist_gated.py'

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/fashion_mnist_weights', bf16=True),
    losses=[dict(type='SpatialLoss', tap='output', weight=1.0)])

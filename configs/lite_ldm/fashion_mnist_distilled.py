# The plain small UNet with the distillation of configs/sd/fashion_mnist.py: what the wavelets add to it.
_base_ = ['./fashion_mnist.py', '../_base_/models/output_losses.py']

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/fashion_mnist_weights', bf16=True),
    losses=_base_.output_losses)

# Spectral diffusion on tokens: the U-shaped, wavelet-gated transformer learns from the shipped UNet of 306 M MACs.
#   python tools/train.py configs/sd_dit/fashion_mnist.py
_base_ = ['./fashion_mnist_gated.py', '../_base_/models/output_losses.py']

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/fashion_mnist_weights', bf16=True),
    losses=_base_.output_losses)

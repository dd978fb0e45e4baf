# Spectral diffusion on Fashion-MNIST: a wavelet-gated student of 23.5 M MACs learns from the shipped teacher of 302 M.
#   python tools/train.py configs/sd/fashion_mnist.py
_base_ = ['./fashion_mnist_gated.py', '../_base_/models/output_losses.py']

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='configs/ldm/fashion_mnist_weights', bf16=True),
    losses=_base_.output_losses)

# A small plain transformer on Fashion-MNIST: 24.5 M MACs with attention, where configs/lite_ldm/fashion_mnist.py
# has 24.7 M.
#   python tools/train.py configs/dit/fashion_mnist_small.py
_base_ = [
    '../_base_/models/fashion_mnist_dit.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/runtime_32px.py',
]

# Of 1, 2, 4 and 8 times 1e-3 the best after 600 iterations: denoising error .063, .055, .050, .047 (seed 0).
optim_wrapper = dict(optimizer=dict(lr=8e-3))

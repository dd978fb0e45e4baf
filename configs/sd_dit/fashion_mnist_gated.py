# A U-shaped transformer on Fashion-MNIST: 64 tokens, which a wavelet-gated down-sampler merges four to one after the
# first block, and its counterpart splits before the last. 24 M MACs with attention, as dit/fashion_mnist_small.py.
#   python tools/train.py configs/sd_dit/fashion_mnist_gated.py
_base_ = '../dit/fashion_mnist_small.py'

model = dict(
    unet=dict(
        attention_head_dim=24,
        layers=(1, 6, 1),
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))
optim_wrapper = dict(optimizer=dict(lr=4e-3))

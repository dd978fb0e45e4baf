# Wavelet gating alone on Fashion-MNIST: configs/sd/fashion_mnist.py without its teacher. The wavelet resamplers cost
# less than convolutions, so the last stage is wider than in configs/lite_ldm/fashion_mnist.py: 23.5 M MACs.
_base_ = [
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/runtime_32px.py',
]

model = dict(
    unet=dict(
        stages=[
            dict(channels=8, blocks=1, up_blocks=2),
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=40, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

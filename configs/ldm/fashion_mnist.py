# The teacher on Fashion-MNIST: the network of configs/ldm/photo_patches.py with one channel, 302 M MACs.
#   python tools/train.py configs/ldm/fashion_mnist.py --amp
_base_ = [
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/runtime_32px.py',
]

model = dict(
    unet=dict(
        norm_groups=8,
        stages=[
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=64, blocks=1, up_blocks=2),
            dict(channels=96, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))
optim_wrapper = dict(optimizer=dict(lr=1e-3))

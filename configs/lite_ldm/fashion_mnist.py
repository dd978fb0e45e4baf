# The plain small UNet ("Lite") to compare configs/sd/fashion_mnist.py with: 23.7 M MACs.
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
            dict(channels=32, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

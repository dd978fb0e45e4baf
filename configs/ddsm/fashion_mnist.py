# A step-aware model on Fashion-MNIST, four widths of one network (DDSM, Yang et al., ICLR 2024).
#   python tools/train.py configs/ddsm/fashion_mnist.py
_base_ = [
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_32px.py',
]

model = dict(
    type='SlimmableDiffusion',
    num_random=1,  # besides the widest and the narrowest, as DDSM
    unet=dict(
        type='SlimmableUNet',
        widths=(0.25, 0.5, 0.75, 1.0),
        stages=[
            dict(channels=16, blocks=1, up_blocks=2),
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=64, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

# A step-aware model with width to spare: Fashion-MNIST averaged to 16x16, 76 M MACs at full width.
#   python tools/train.py configs/ddsm/fashion_mnist_16px.py
_base_ = [
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_16px.py',
]

model = dict(
    type='SlimmableDiffusion',
    num_random=1,
    sigma_data=0.63,  # of the averaged pixels
    unet=dict(
        type='SlimmableUNet',
        sample_size=16,
        # Without a quarter width: the three widths all run in every iteration.
        widths=(0.5, 0.75, 1.0),
        stages=[
            dict(channels=32, blocks=1, up_blocks=2),
            dict(channels=64, blocks=1, up_blocks=2),
            dict(channels=96, blocks=1, up_blocks=2, downsample=False, heads=4),
        ],
        downsampler=dict(type='ConvDown'),
        upsampler=dict(type='NearestConvUp')))

train_cfg = dict(max_iters=3000, val_interval=3000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=750, end=3000),
]
train_dataloader = dict(batch_size=32, dataset=dict(image_size=16, pool=2))
val_dataloader = dict(dataset=dict(image_size=16, pool=2))
test_dataloader = dict(dataset=dict(image_size=16, pool=2))
default_hooks = dict(checkpoint=dict(interval=500))

val_evaluator = [
    # Two layers: the default three need 20 pixels. Not FID.
    dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor', channels=(32, 64))),
    dict(type='KernelDistance', extractor=dict(type='EfficientNetLite0', size=64), subset_size=500),
    dict(type='LaplacianSWD'),
    dict(type='RadialSpectrumDistance'),
    dict(type='BandwiseDenoisingError', num_images=2000),
]
test_evaluator = val_evaluator
val_cfg = dict(num_images=1000)

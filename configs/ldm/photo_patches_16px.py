# The teacher on 16x16 patches: 75.9 M MACs, 12.7 times those of the students; more data and a longer schedule.
#   python tools/train.py configs/ldm/photo_patches_16px.py --amp
_base_ = [
    '../_base_/models/photo_patches_16px.py',
    '../_base_/datasets/photo_patches_16px.py',
    '../_base_/schedules/photo_patches_16px.py',
    '../_base_/runtime_16px.py',
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

train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=15_000, val_interval=15_000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=3000, end=15_000),
]
default_hooks = dict(
    checkpoint=dict(interval=2500),
    samples=dict(interval=5000),
    spectra=dict(interval=5000))

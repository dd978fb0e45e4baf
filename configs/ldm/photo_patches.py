# The teacher on 32x32 PhotoPatches: 303 M MACs. It goes on from the teacher of 16x16 patches, which has the same
# network, because a step costs a quarter there:
#   python tools/train.py configs/ldm/photo_patches_16px.py --amp
#   python tools/train.py configs/ldm/photo_patches.py --amp
_base_ = [
    '../_base_/models/photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches.py',
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

load_from = 'work_dirs/ldm/photo_patches_16px/iter_15000.pth'
train_cfg = dict(max_iters=3000, val_interval=3000, val_before_train=False)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=500, end=3000),
]

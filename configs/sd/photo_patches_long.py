# Twice the schedule of photo_patches.py, and a larger sample for the metrics.
_base_ = './photo_patches.py'

train_cfg = dict(max_iters=3000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=1200, end=3000),
]
val_cfg = dict(num_images=1000)

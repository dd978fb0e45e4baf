# Yang et al. 2023, supplement, table 3: as table 2, but 300,000 iterations.
_base_ = './sd_150k.py'

train_cfg = dict(max_iters=300_000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=False, begin=1000, end=300_000),
]

# Yang et al. 2023, supplement, table 3, for text: 64 images on each of 32 GPUs, and a rate of 4.096e-3 for them.
# The iterations are those of sd_300k.py: a _base_ file has one level beneath it at most.
_base_ = './sd_150k.py'

train_cfg = dict(max_iters=300_000)
optim_wrapper = dict(optimizer=dict(lr=4.096e-3))
auto_scale_lr = dict(base_batch_size=2048)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=False, begin=1000, end=300_000),
]

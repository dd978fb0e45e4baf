# Yang et al. 2023, supplement, table 3, for text: 64 images on each of 32 GPUs, and a rate of 4.096e-3 for them.
_base_ = './sd_300k.py'

optim_wrapper = dict(optimizer=dict(lr=4.096e-3))
auto_scale_lr = dict(base_batch_size=2048)

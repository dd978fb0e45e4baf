# The plain small UNet ("Lite") to compare configs/sd/lsun_church_ldm-layout.py with: the layout of the teacher
# with few channels, table 5's heads and the teacher's resamplers, trained without distillation.
_base_ = [
    '../_base_/models/lite_lsun_church.py',
    '../_base_/datasets/lsun_church_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

auto_scale_lr = dict(base_batch_size=512)  # table 2: 64 images on each of 8 GPUs

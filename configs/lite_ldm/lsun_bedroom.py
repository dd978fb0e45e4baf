# The plain small UNet ("Lite") of LSUN-Bedroom 256x256, to compare configs/sd/lsun_bedroom_ldm-layout.py with: the
# layout of the teacher with few channels, trained without distillation.
_base_ = [
    '../_base_/models/lite_ldm4.py',
    '../_base_/datasets/lsun_bedroom_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

# The plain small UNet ("Lite") to compare configs/sd/laion_ldm-layout.py with: the layout of the teacher
# with few channels and its own resamplers, trained without distillation.
_base_ = [
    '../_base_/models/lite_laion.py',
    '../_base_/datasets/laion_256.py',
    '../_base_/schedules/sd_text_300k.py',
    '../_base_/default_runtime.py',
]

# A step-aware model on 32x32 patches: configs/ddsm/photo_patches_16px.py at the other size.
#   python tools/train.py configs/ddsm/photo_patches.py
_base_ = [
    '../_base_/models/ddsm_photo_patches.py',
    '../_base_/datasets/photo_patches.py',
    '../_base_/schedules/photo_patches.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_32px.py',
]

# A step-aware model small enough for two CPU cores: 16x16 patches, 24 M MACs at full width.
#   python tools/train.py configs/ddsm/photo_patches_16px.py
_base_ = [
    '../_base_/models/ddsm_photo_patches.py',
    '../_base_/datasets/photo_patches_16px.py',
    '../_base_/schedules/photo_patches_16px.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_16px.py',
]

model = dict(
    sampler=dict(type='DDIMScheduler'),  # with which the published experiment was sampled
    unet=dict(sample_size=16))

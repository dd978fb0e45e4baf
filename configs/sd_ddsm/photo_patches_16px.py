# Both slimmings at once, on 16x16 patches: wavelet-gated, slimmable, every width distilled from the teacher.
#   python tools/train.py configs/sd_ddsm/photo_patches_16px.py
_base_ = [
    '../_base_/models/output_losses.py',
    '../_base_/models/ddsm_photo_patches.py',
    '../_base_/datasets/photo_patches_16px.py',
    '../_base_/schedules/photo_patches_16px.py',
    '../_base_/search/two_stage.py',
    '../_base_/runtime_16px.py',
]

model = dict(
    type='SlimmableDistiller',
    teacher=dict(checkpoint='configs/ldm/photo_patches_16px_weights', bf16=True),
    sampler=dict(type='DDIMScheduler'),  # with which the published experiment was sampled
    # As configs/sd/photo_patches_16px.py has them.
    losses=_base_.output_losses,
    unet=dict(
        sample_size=16,
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

# The plain small UNet ("Lite") to compare configs/sd/lsun_church_ldm-layout.py with: the layout of the teacher
# with few channels and its own resamplers, trained without distillation.
_base_ = [
    '../_base_/models/latents_kl_f8.py',
    '../_base_/datasets/lsun_church_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    autoencoder=dict(latent_scale=None),  # see configs/ldm/lsun_church.py
    unet=dict(
        stages=[
            dict(channels=64, blocks=2, up_blocks=3, heads=2),
            dict(channels=128, blocks=2, up_blocks=3, heads=4),
            dict(channels=128, blocks=2, up_blocks=3, heads=4),
            dict(channels=256, blocks=2, up_blocks=3, heads=8),
            dict(channels=256, blocks=2, up_blocks=3, downsample=False),
        ],
        mid_heads=8,
        scale_shift_norm=True,
        residual_resampling=True,
        downsampler=dict(type='AvgPoolDown'),
        upsampler=dict(type='NearestUp')))

auto_scale_lr = dict(base_batch_size=512)  # table 2: 64 images on each of 8 GPUs

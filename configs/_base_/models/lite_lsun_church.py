# The layout of configs/ldm/lsun_church.py with 64 channels in place of 192, and the heads of table 5 (Yang et al. 2023,
# supplement): 2, 4, 4 and 8, where the teacher has 8 everywhere.
_base_ = './latents_kl_f8.py'

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

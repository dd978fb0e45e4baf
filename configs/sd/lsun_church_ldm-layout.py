# Spectral diffusion on LSUN-Church 256x256 in the layout of its teacher (configs/ldm/lsun_church.py), 64 channels in
# place of 192: resampling inside residual blocks is kept, with wavelet gating in the place of pooling.
_base_ = [
    '../_base_/models/sd_kl_f8.py',
    '../_base_/datasets/lsun_church_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    autoencoder=dict(latent_scale=None),  # see configs/ldm/lsun_church.py
    teacher=dict(checkpoint='checkpoints/ldm/lsun_church', config='configs/ldm/lsun_church.py', bf16=True),
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
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

auto_scale_lr = dict(base_batch_size=512)  # table 2: 64 images on each of 8 GPUs

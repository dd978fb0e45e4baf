# Spectral diffusion on LSUN-Church 256x256: table 5 of the supplement, literally, with one misprint mended.
_base_ = [
    '../_base_/models/latents_kl_f8.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/lsun_church_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='Distiller',
    autoencoder=dict(latent_scale=None),  # see configs/ldm/lsun_church.py
    teacher=dict(checkpoint='checkpoints/ldm/lsun_church', config='configs/ldm/lsun_church.py', bf16=True),
    losses=_base_.sd_losses,
    unet=dict(
        stages=[
            dict(channels=64, blocks=2, heads=2),  # the table has 32 heads on the way down, 2 on the way up
            dict(channels=128, blocks=2, heads=4),
            dict(channels=128, blocks=2, heads=4),
            dict(channels=256, blocks=2, heads=8),
            dict(channels=256, blocks=2),
        ],
        mid_heads=8,
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

auto_scale_lr = dict(base_batch_size=512)  # table 2: 64 images on each of 8 GPUs

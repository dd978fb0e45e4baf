# Spectral diffusion on LSUN-Church 256x256 in the layout of its teacher (configs/ldm/lsun_church.py), 64 channels in
# place of 192: resampling inside residual blocks is kept, with wavelet gating in the place of pooling.
# It is configs/lite_ldm/lsun_church.py with wavelet gating, and distilled.
_base_ = [
    '../_base_/models/lite_lsun_church.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/lsun_church_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='checkpoints/ldm/lsun_church', config='configs/ldm/lsun_church.py', bf16=True),
    losses=_base_.sd_losses,
    unet=dict(
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

auto_scale_lr = dict(base_batch_size=512)  # table 2: 64 images on each of 8 GPUs

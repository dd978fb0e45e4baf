# Spectral diffusion on LSUN-Bedroom 256x256 in the layout of its teacher: the reading whose counts are those that the
# paper prints.
# It is configs/lite_ldm/lsun_bedroom.py with wavelet gating, and distilled: 21.1 M parameters and 6.7 G MACs.
_base_ = [
    '../_base_/models/lite_ldm4.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/lsun_bedroom_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='checkpoints/ldm/lsun_bedroom', config='configs/ldm/lsun_bedroom.py', bf16=True),
    losses=_base_.sd_losses,
    unet=dict(
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

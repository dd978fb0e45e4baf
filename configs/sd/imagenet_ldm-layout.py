# Spectral diffusion on ImageNet 256x256 in the layout of its teacher (configs/ldm/imagenet.py), 64 channels in place of
# 192: 45.4 M parameters and 9.9 G MACs, the counts that the paper prints.
# It is configs/lite_ldm/imagenet.py with wavelet gating, and distilled.
_base_ = [
    '../_base_/models/lite_imagenet.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/sd_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='Distiller',
    teacher=dict(checkpoint='checkpoints/ldm/imagenet', config='configs/ldm/imagenet.py', bf16=True),
    losses=_base_.sd_losses,
    unet=dict(
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

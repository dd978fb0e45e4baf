# Spectral diffusion on ImageNet 256x256: table 6 of the supplement, literally.
_base_ = [
    '../_base_/models/latents_vq_f4.py',
    '../_base_/models/sd_losses.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/sd_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    type='Distiller',
    num_classes=1000,  # and the null class, label 1000
    guidance_scale=3.0,  # table 3
    teacher=dict(checkpoint='checkpoints/ldm/imagenet', config='configs/ldm/imagenet.py', bf16=True),
    losses=_base_.sd_losses,
    unet=dict(
        stages=[
            dict(channels=64, blocks=3),
            dict(channels=128, blocks=3, heads=4, cross_attention=True),
            dict(channels=192, blocks=3, heads=6, cross_attention=True),
            dict(channels=256, blocks=3, heads=8, cross_attention=True),
        ],
        mid_heads=8,
        mid_cross_attention=True,
        # The class is one token of 512 channels.
        class_token=True,
        context_channels=512,
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

# Spectral diffusion on ImageNet 256x256 in the layout of its teacher (configs/ldm/imagenet.py), 64 channels in place of
# 192: 45.4 M parameters and 9.9 G MACs, the counts that the paper prints.
_base_ = [
    '../_base_/models/sd_vq_f4.py',
    '../_base_/datasets/imagenet_256.py',
    '../_base_/schedules/sd_300k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    num_classes=1000,  # and the null class, label 1000
    guidance_scale=3.0,  # table 3
    teacher=dict(checkpoint='checkpoints/ldm/imagenet', config='configs/ldm/imagenet.py', bf16=True),
    unet=dict(
        stages=[
            dict(channels=64, blocks=2, up_blocks=3),
            dict(channels=128, blocks=2, up_blocks=3, heads=1, cross_attention=True),
            dict(channels=192, blocks=2, up_blocks=3, heads=1, cross_attention=True),
            dict(channels=320, blocks=2, up_blocks=3, downsample=False, heads=1, cross_attention=True),
        ],
        mid_heads=1,
        mid_cross_attention=True,
        class_token=True,
        context_channels=512,
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

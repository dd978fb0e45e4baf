# Spectral diffusion on FFHQ 256x256: table 4 of the supplement, literally.
# ffhq_ldm-layout.py is the reading whose counts are those that the paper prints.
_base_ = [
    '../_base_/models/latents_vq_f4.py',
    '../_base_/models/sd_distillation.py',
    '../_base_/datasets/ffhq_256.py',
    '../_base_/schedules/sd_150k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    teacher=dict(checkpoint='checkpoints/ldm_ffhq', bf16=True),
    unet=dict(
        stages=[
            dict(channels=64, blocks=3),
            dict(channels=128, blocks=3, heads=4),
            dict(channels=192, blocks=3, heads=6),
            dict(channels=256, blocks=3, heads=8),
        ],
        mid_heads=8,
        downsampler=dict(type='WaveletGatedDown'),
        upsampler=dict(type='WaveletGatedUp')))

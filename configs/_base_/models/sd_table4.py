# Table 4 of the supplement, literally: the students of FFHQ, CelebA-HQ and LSUN-Bedroom.
_base_ = ['./latents_vq_f4.py', './sd_losses.py']

model = dict(
    type='Distiller',
    losses=_base_.sd_losses,
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

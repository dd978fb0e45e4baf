# LDM-4 of FFHQ, CelebA-HQ and LSUN-Bedroom (Rombach et al. 2022, table 12): 274.1 M parameters, 96.1 G MACs.
_base_ = './latents_vq_f4.py'

model = dict(
    unet=dict(
        # base 224, multipliers 1, 2, 3, 4; heads of 32 channels at factors 2, 4, 8
        stages=[
            dict(channels=224, blocks=2, up_blocks=3),
            dict(channels=448, blocks=2, up_blocks=3, heads=14),
            dict(channels=672, blocks=2, up_blocks=3, heads=21),
            dict(channels=896, blocks=2, up_blocks=3, downsample=False, heads=28),
        ],
        mid_heads=28))

# 64x64: the network of DDIM's CelebA (Song et al. 2021), 128 x (1, 2, 2, 2, 4), attention at 16x16. DDSM's paper gives
# 49.88 GFLOPs and no layers; this one has 47.8.
_base_ = './ddsm.py'

model = dict(
    unet=dict(
        sample_size=64,
        stages=[
            dict(channels=128, blocks=2, up_blocks=3),
            dict(channels=256, blocks=2, up_blocks=3),
            dict(channels=256, blocks=2, up_blocks=3, heads=1),
            dict(channels=256, blocks=2, up_blocks=3),
            dict(channels=512, blocks=2, up_blocks=3, downsample=False),
        ],
        mid_heads=1,
        dropout=0.1))

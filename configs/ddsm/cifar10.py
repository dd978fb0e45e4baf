# DDSM on CIFAR-10 (Yang et al., ICLR 2024): the UNet of DDPM at four widths.
#   python tools/train.py configs/ddsm/cifar10.py
_base_ = [
    '../_base_/models/ddsm.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/ddsm.py',
    '../_base_/search/two_stage.py',
    '../_base_/default_runtime.py',
]

model = dict(
    unet=dict(
        sample_size=32,
        # Ho et al. (2020), appendix B: 128 x (1, 2, 2, 2), two blocks, one head at 16x16 and in the middle.
        stages=[
            dict(channels=128, blocks=2, up_blocks=3),
            dict(channels=256, blocks=2, up_blocks=3, heads=1),
            dict(channels=256, blocks=2, up_blocks=3),
            dict(channels=256, blocks=2, up_blocks=3, downsample=False),
        ],
        mid_heads=1,
        dropout=0.1))

train_dataloader = dict(batch_size=256)

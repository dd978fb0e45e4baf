# LSUN's churches at 256x256, from its lmdb databases: docs/en/user_guides/datasets.md#lsun.
# With flips, as latent diffusion trains on them; the 300 validation images are too few for a Frechet distance.
_base_ = './loaders.py'

train_dataloader = dict(
    batch_size=64,  # and 8 GPUs: table 2 of Yang et al. 2023, supplement
    dataset=dict(
        type='LSUN',
        data_root='data/lsun/church_outdoor_train_lmdb',
        image_size=256,
        pipeline=[
            dict(type='LoadImage'),
            dict(type='ResizeShortSide', size=256),
            dict(type='CenterCrop', crop_size=256),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackImage'),
        ]))

val_dataloader = dict(
    dataset=dict(type='LSUN', data_root='data/lsun/church_outdoor_val_lmdb', image_size=256))

test_dataloader = val_dataloader

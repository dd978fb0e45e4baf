# LSUN's bedrooms at 256x256, from its lmdb databases: docs/en/user_guides/datasets.md#lsun.
# Without flips (loaders.py), though latent diffusion flipped these when it trained the networks that configs/ldm hold.
# The 300 validation images are too few for a Frechet distance.
_base_ = './loaders.py'

train_dataloader = dict(
    batch_size=32,  # and 8 GPUs: table 2 of Yang et al. 2023, supplement
    dataset=dict(type='LSUN', data_root='data/lsun/bedroom_train_lmdb', image_size=256))

val_dataloader = dict(
    dataset=dict(type='LSUN', data_root='data/lsun/bedroom_val_lmdb', image_size=256))

test_dataloader = val_dataloader

# CelebA-HQ at 256x256, from the zip archive that docs/en/user_guides/datasets.md#ffhq-celeba-hq-afhq makes.
# 25,000 images train and 5,000 validate, as many as VQGAN's lists have (not the same ones).
_base_ = './loaders.py'

train_dataloader = dict(
    batch_size=32,  # and 8 GPUs: table 2 of Yang et al. 2023, supplement
    dataset=dict(type='ImageZip', data_root='data/celebahq/celebahq-256.zip', part=(0, 25_000), image_size=256))

val_dataloader = dict(
    dataset=dict(type='ImageZip', data_root='data/celebahq/celebahq-256.zip', part=(25_000, 30_000), image_size=256))

test_dataloader = val_dataloader

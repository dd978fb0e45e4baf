# FFHQ at 256x256, from the zip archive that docs/en/user_guides/datasets.md#ffhq-celeba-hq-afhq makes.
# Its authors' split: the first 60,000 images train, the last 10,000 validate.
_base_ = './loaders.py'

train_dataloader = dict(
    batch_size=32,  # and 8 GPUs: table 2 of Yang et al. 2023, supplement
    dataset=dict(type='ImageZip', data_root='data/ffhq/ffhq-256.zip', part=(0, 60_000), image_size=256))

val_dataloader = dict(
    dataset=dict(type='ImageZip', data_root='data/ffhq/ffhq-256.zip', part=(60_000, 70_000), image_size=256))

test_dataloader = val_dataloader

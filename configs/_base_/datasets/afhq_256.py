# AFHQ v2 at 256x256, all three kinds, from the zip archive that docs/en/user_guides/datasets.md#ffhq-celeba-hq-afhq
# makes. 15,803 images: 14,336 train, 1,467 test.
_base_ = './loaders.py'

train_dataloader = dict(
    batch_size=32,
    dataset=dict(type='ImageZip', data_root='data/afhq/afhq.zip', folder='afhq_v2/train', image_size=256))

val_dataloader = dict(
    dataset=dict(type='ImageZip', data_root='data/afhq/afhq.zip', folder='afhq_v2/test', image_size=256))

test_dataloader = val_dataloader

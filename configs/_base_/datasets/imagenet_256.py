# ImageNet (ILSVRC 2012) at 256x256, in folders of synsets: docs/en/user_guides/datasets.md#imagenet.
_base_ = './loaders.py'

train_dataloader = dict(
    num_workers=8,
    batch_size=32,  # and 8 GPUs: table 3 of Yang et al. 2023, supplement
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='train', image_size=256))

val_dataloader = dict(
    num_workers=8,
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='val', image_size=256))

test_dataloader = val_dataloader

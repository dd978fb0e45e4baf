# LAION's images with captions at 256x256, in tars of img2dataset: docs/en/user_guides/datasets.md#laion.
# Pairs come from the net: single broken ones are skipped, and counted. The tars of train/ and val/ must differ.
_base_ = './loaders.py'

train_dataloader = dict(
    num_workers=8,
    batch_size=64,  # and 32 GPUs: table 3 of Yang et al. 2023, supplement
    dataset=dict(type='LaionTars', data_root='data/laion/train', shards='*.tar', image_size=256, on_error='skip'))

val_dataloader = dict(
    num_workers=8,
    dataset=dict(type='LaionTars', data_root='data/laion/val', shards='*.tar', image_size=256, on_error='skip'))

test_dataloader = val_dataloader

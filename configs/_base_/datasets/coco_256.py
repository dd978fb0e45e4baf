# COCO 2017 with captions at 256x256: docs/en/user_guides/datasets.md#coco.
# Of an image's five captions training draws one, validation takes the first.
_base_ = './loaders.py'

train_dataloader = dict(
    batch_size=64,
    dataset=dict(type='CocoCaptions', data_root='data/coco', split='train2017', caption='random', image_size=256))

val_dataloader = dict(
    dataset=dict(type='CocoCaptions', data_root='data/coco', split='val2017', caption='first', image_size=256))

test_dataloader = val_dataloader

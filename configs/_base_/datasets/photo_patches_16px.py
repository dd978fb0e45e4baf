# 16x16 crops, for comparisons that want many runs: a quarter of the time of photo_patches.py.
_base_ = './photo_patches.py'

train_dataloader = dict(batch_size=16, dataset=dict(image_size=16))
val_dataloader = dict(dataset=dict(image_size=16))
test_dataloader = dict(dataset=dict(image_size=16))

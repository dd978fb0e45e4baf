# COCO 2017 with captions at 256x256: docs/en/user_guides/datasets.md#coco.
# Of an image's five captions training draws one, validation takes the first.

train_dataloader = dict(
    # Decoding and resizing take milliseconds an image: let processes do it while the network computes.
    num_workers=4,
    persistent_workers=True,
    batch_size=64,
    sampler=dict(type='ResumableSampler', shuffle=True),
    # Not mmengine's default, which gives lists of tensors.
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CocoCaptions', data_root='data/coco', split='train2017', caption='random', image_size=256))

val_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='CocoCaptions', data_root='data/coco', split='val2017', caption='first', image_size=256))

test_dataloader = val_dataloader

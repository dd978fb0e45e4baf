# ImageNet (ILSVRC 2012) at 256x256, in folders of synsets: docs/en/user_guides/datasets.md#imagenet.

train_dataloader = dict(
    # Decoding and resizing take milliseconds an image: let processes do it while the network computes.
    num_workers=8,
    persistent_workers=True,
    batch_size=32,  # and 8 GPUs: table 3 of Yang et al. 2023, supplement
    sampler=dict(type='ResumableSampler', shuffle=True),
    # Not mmengine's default, which gives lists of tensors.
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='train', image_size=256))

val_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageNet', data_root='data/imagenet', split='val', image_size=256))

test_dataloader = val_dataloader

# LAION's images with captions at 256x256, in tars of img2dataset: docs/en/user_guides/datasets.md#laion.
# Pairs come from the net: single broken ones are skipped, and counted. The tars of train/ and val/ must differ.

train_dataloader = dict(
    # Decoding and resizing take milliseconds an image: let processes do it while the network computes.
    num_workers=8,
    persistent_workers=True,
    batch_size=64,  # and 32 GPUs: table 3 of Yang et al. 2023, supplement
    sampler=dict(type='ResumableSampler', shuffle=True),
    # Not mmengine's default, which gives lists of tensors.
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='LaionTars', data_root='data/laion/train', shards='*.tar', image_size=256, on_error='skip'))

val_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='LaionTars', data_root='data/laion/val', shards='*.tar', image_size=256, on_error='skip'))

test_dataloader = val_dataloader

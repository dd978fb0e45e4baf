# LSUN's bedrooms at 256x256, from its lmdb databases: docs/en/user_guides/datasets.md#lsun.
# With flips, as latent diffusion trains on them; the 300 validation images are too few for a Frechet distance.

train_dataloader = dict(
    # Decoding and resizing take milliseconds an image: let processes do it while the network computes.
    num_workers=4,
    persistent_workers=True,
    batch_size=32,  # and 8 GPUs: table 2 of Yang et al. 2023, supplement
    sampler=dict(type='ResumableSampler', shuffle=True),
    # Not mmengine's default, which gives lists of tensors.
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='LSUN',
        data_root='data/lsun/bedroom_train_lmdb',
        image_size=256,
        pipeline=[
            dict(type='LoadImage'),
            dict(type='ResizeShortSide', size=256),
            dict(type='CenterCrop', crop_size=256),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackImage'),
        ]))

val_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='LSUN', data_root='data/lsun/bedroom_val_lmdb', image_size=256))

test_dataloader = val_dataloader

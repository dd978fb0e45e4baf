# CelebA-HQ at 256x256, from the zip archive that docs/en/user_guides/datasets.md#ffhq-celeba-hq-afhq makes.
# 25,000 images train and 5,000 validate, as many as VQGAN's lists have (not the same ones).

train_dataloader = dict(
    # Decoding and resizing take milliseconds an image: let processes do it while the network computes.
    num_workers=4,
    persistent_workers=True,
    batch_size=32,  # and 8 GPUs: table 2 of Yang et al. 2023, supplement
    sampler=dict(type='ResumableSampler', shuffle=True),
    # Not mmengine's default, which gives lists of tensors.
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageZip', data_root='data/celebahq/celebahq-256.zip', part=(0, 25_000), image_size=256))

val_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='ImageZip', data_root='data/celebahq/celebahq-256.zip', part=(25_000, 30_000), image_size=256))

test_dataloader = val_dataloader

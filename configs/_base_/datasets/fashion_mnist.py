# Fashion-MNIST, padded to 32x32, one channel: docs/en/user_guides/datasets.md#fashion-mnist.
# From Debian's package dataset-fashion-mnist, or downloaded once.

train_dataloader = dict(
    # All images are in memory: a worker would only take CPU time from training.
    num_workers=0,
    batch_size=64,
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(type='FashionMNIST', split='train', image_size=32))

val_dataloader = dict(
    num_workers=0,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(type='FashionMNIST', split='test', image_size=32))

test_dataloader = val_dataloader

# CIFAR-10 at 32x32, from its binary version: docs/en/user_guides/datasets.md#cifar-10.
# With flips, as DDPM trains on it.

train_dataloader = dict(
    # There is nothing to decode: two processes are enough.
    num_workers=2,
    persistent_workers=True,
    batch_size=128,
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(
        type='CIFAR10',
        data_root='data/cifar10/cifar-10-batches-bin',
        split='train',
        pipeline=[dict(type='RandomFlip', prob=0.5), dict(type='PackImage')]))

val_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    batch_size=128,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(type='CIFAR10', data_root='data/cifar10/cifar-10-batches-bin', split='test'))

test_dataloader = val_dataloader

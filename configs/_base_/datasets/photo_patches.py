# 32x32 crops of the photographs inside the scikit-image wheel: nothing to download.

train_dataloader = dict(
    # A batch takes about half a millisecond: less than to pass it between processes, and a worker would take CPU time
    # from training.
    num_workers=0,
    batch_size=32,
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(type='PhotoPatches', split='train', image_size=32, length=12_000))

val_dataloader = dict(
    num_workers=0,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    # Crops from blocks of the same photos that training never sees.
    dataset=dict(type='PhotoPatches', split='val', image_size=32, length=6_000))

test_dataloader = val_dataloader

# Your own images, prepared as VQGAN's: short side to 256, centre crop, [-1, 1], no flip.
# Say where they are with `--cfg-options train_dataloader.dataset.data_root=...`, or in a config over this one.
# For labels, put every class in a sub-folder and set class_from_folder=True in each dataset.

train_dataloader = dict(
    # Decoding and resizing take milliseconds an image: let processes do it while the network computes.
    num_workers=2,
    persistent_workers=True,
    batch_size=64,
    sampler=dict(type='ResumableSampler', shuffle=True),
    # on_error='skip' goes on past unreadable images (logged and counted).
    dataset=dict(type='ImageFolder', data_root='data/images/train', image_size=256, on_error='raise'))

val_dataloader = dict(
    num_workers=2,
    persistent_workers=True,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(type='ImageFolder', data_root='data/images/val', image_size=256, on_error='raise'))

test_dataloader = val_dataloader

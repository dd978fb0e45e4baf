# How images are loaded; a data set's config adds `dataset`s and the batch.
# The data sets prepare images as VQGAN does (short side to 256, centre crop, [-1, 1]), and these configs add neither
# augmentation nor flips: Yang et al. 2023, supplement, section 4.2. Students and teachers share the data.

train_dataloader = dict(
    # Decoding and resizing take milliseconds an image: let processes do it while the network computes.
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='ResumableSampler', shuffle=True))

val_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    batch_size=64,
    # round_up would repeat images to give every rank as many; a metric must see each once.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False))

test_dataloader = val_dataloader

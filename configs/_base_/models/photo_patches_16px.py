# What the 16x16 PhotoPatches models share: as photo_patches.py, at another size.
_base_ = './photo_patches.py'

# The published experiments at this size were sampled by DDIM.
model = dict(sampler=dict(type='DDIMScheduler'), unet=dict(sample_size=16))

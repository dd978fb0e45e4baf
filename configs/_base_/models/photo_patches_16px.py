# What the 16x16 PhotoPatches models share: as photo_patches.py, at another size.
_base_ = './photo_patches.py'

model = dict(unet=dict(sample_size=16))

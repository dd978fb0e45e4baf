# The long schedule on 16x16 patches: a quarter of the time, for comparisons over several seeds.
_base_ = './photo_patches_long.py'

model = dict(unet=dict(sample_size=16))
train_dataloader = dict(dataset=dict(image_size=16))
val_dataloader = dict(dataset=dict(image_size=16))
test_dataloader = dict(dataset=dict(image_size=16))

# The Frechet distance's random network needs 20 pixels.
val_evaluator = [
    dict(type='RadialSpectrumDistance'),
    dict(type='BandwiseDenoisingError', num_images=2000, timestep_edges=(0, 300, 1000)),
]
test_evaluator = val_evaluator

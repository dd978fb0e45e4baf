# 10,000 iterations with a linear decay to nearly zero; metrics once, at the end, on 2,000 images.

train_cfg = dict(type='IterTrainLoop', max_iters=10_000, val_interval=10_000, val_before_train=False)

optim_wrapper = dict(
    type='SlimOptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    clip_grad=dict(max_norm=1.0))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=2000, end=10_000),
]

val_evaluator = [
    # Two layers: the default three need 20 pixels. Not FID.
    dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor', channels=(32, 64))),
    dict(type='LaplacianSWD'),
    dict(type='RadialSpectrumDistance'),
    dict(type='BandwiseDenoisingError', num_images=2000),
]
test_evaluator = val_evaluator
val_cfg = dict(type='EvaluationLoop', num_images=2000, num_real=4000, batch_size=100, sampling=dict(num_steps=25))
test_cfg = dict(type='EvaluationLoop', num_images=2000, num_real=4000, batch_size=100, sampling=dict(num_steps=25),
                floor_splits=4)

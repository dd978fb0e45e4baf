# A short run on Fashion-MNIST: warm-up, then a linear decay. A run of another length changes `max_iters` and `end`.

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
    dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor')),
    dict(type='RadialSpectrumDistance'),
    dict(type='BandwiseDenoisingError', num_images=1000, timestep_edges=(0, 300, 1000), stderr=False),
]
test_evaluator = [*val_evaluator[:2], dict(type='BandwiseDenoisingError')]
val_cfg = dict(type='EvaluationLoop', num_images=500, num_real=5000, batch_size=100, floor_splits=4)
test_cfg = dict(type='EvaluationLoop', num_images=10_000, num_real=10_000, batch_size=250)

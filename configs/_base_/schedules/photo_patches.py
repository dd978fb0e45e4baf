# A short run on 32x32 PhotoPatches: about seven minutes on two CPU cores with distillation.

# Metrics before and after training, and never in between.
train_cfg = dict(type='IterTrainLoop', max_iters=3500, val_interval=3500, val_before_train=True)

optim_wrapper = dict(
    type='SlimOptimWrapper',
    # A small network and few iterations: ten times the usual learning rate.
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    clip_grad=dict(max_norm=1.0))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=1000, end=3500),
]

# No metric here is called FID: Inception's weights can't be assumed (docs/en/user_guides/metrics.md).
val_evaluator = [
    dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor')),
    dict(type='LaplacianSWD'),
    dict(type='RadialSpectrumDistance'),
    dict(type='BandwiseDenoisingError', num_images=1000, timestep_edges=(0, 300, 1000), stderr=False),
]
test_evaluator = [*val_evaluator[:3], dict(type='BandwiseDenoisingError')]
# 25 DDIM steps: sampling for the metrics should not take longer than the training.
val_cfg = dict(type='EvaluationLoop', num_images=384, num_real=2000, batch_size=64, sampling=dict(num_steps=25),
               floor_splits=4)
test_cfg = dict(type='EvaluationLoop', num_images=2000, num_real=2000, batch_size=64, floor_splits=4)

# The first job: three minutes on two plain CPU cores, metrics included. A high learning rate, for a short run.

train_cfg = dict(type='IterTrainLoop', max_iters=1500, val_interval=1500, val_before_train=False)

optim_wrapper = dict(
    type='SlimOptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    clip_grad=dict(max_norm=1.0))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=450, end=1500),
]

val_evaluator = [
    dict(type='ClassAccuracy', classifier='configs/classifiers/photo_patches.safetensors'),
    dict(type='BandwiseDenoisingError', num_images=1000, timestep_edges=(0, 300, 1000), stderr=False),
]
test_evaluator = [*val_evaluator, dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor'))]
val_cfg = dict(type='EvaluationLoop', num_images=480, num_real=480, batch_size=120)
test_cfg = dict(type='EvaluationLoop', num_images=2400, num_real=2400, batch_size=120, floor_splits=4)

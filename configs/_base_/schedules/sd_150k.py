# Yang et al. 2023, supplement, table 2: 150,000 iterations, the first 1,000 of them warm-up, then linear decay, from
# 5.12e-4 for 8 GPUs with 32 images each. Fewer GPUs: tools/train.py --keep-batch or --auto-scale-lr
# (docs/en/user_guides/distributed.md). The table has neither weight decay nor gradient clipping: AdamW's default of
# 0.01 and none, as in latent diffusion's code.

train_cfg = dict(type='IterTrainLoop', max_iters=150_000, val_interval=25_000)
optim_wrapper = dict(type='SlimOptimWrapper', optimizer=dict(type='AdamW', lr=5.12e-4))
auto_scale_lr = dict(base_batch_size=256)
# Every iteration uses the same parameters, also where a slimmable model's middle width is drawn at random: the widest
# network is in each. DDP need not search for unused ones.
model_wrapper_cfg = dict(type='MMDistributedDataParallel', static_graph=True)

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1000),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=False, begin=1000, end=150_000),
]

# FID wants Inception's weights: docs/en/user_guides/metrics.md. These work without.
val_evaluator = [
    dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor')),
    dict(type='LaplacianSWD'),
    dict(type='RadialSpectrumDistance'),
]
test_evaluator = val_evaluator
val_cfg = dict(type='EvaluationLoop', num_images=1000, num_real=5000, batch_size=32, sampling=dict(num_steps=50))
test_cfg = dict(type='EvaluationLoop', num_images=50_000, num_real=50_000, batch_size=32)

# DDSM's training on CIFAR-10 (Yang et al., ICLR 2024): batch 256, learning rate 4e-4 after 5,000 steps of warm-up,
# 450,000 iterations; Adam, gradients clipped at 1 as in the released settings. EMA 0.9999 is the default.

train_cfg = dict(type='IterTrainLoop', max_iters=450_000, val_interval=25_000)
optim_wrapper = dict(
    type='SlimOptimWrapper',
    optimizer=dict(type='Adam', lr=4e-4, fused=True),
    clip_grad=dict(max_norm=1.0))
auto_scale_lr = dict(base_batch_size=256)
# Every weight has a gradient at every width, so DDP need not search for unused ones.
model_wrapper_cfg = dict(type='MMDistributedDataParallel')

param_scheduler = [dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=5000)]

# FID wants Inception's weights: docs/en/user_guides/metrics.md. These work without. Every width is measured.
val_evaluator = [
    dict(type='FrechetDistance', extractor=dict(type='RandomConvExtractor')),
    dict(type='LaplacianSWD'),
    dict(type='RadialSpectrumDistance'),
]
test_evaluator = val_evaluator
val_cfg = dict(type='EvaluationLoop', num_images=1000, num_real=5000, batch_size=100, sampling=dict(num_steps=50))
test_cfg = dict(type='EvaluationLoop', num_images=50_000, num_real=50_000, batch_size=100)

# AdamW, warm-up, then a linear decay to zero: better than a constant rate where a run is short.
# A run of another length changes max_iters and the decay's `end`.

train_cfg = dict(type='IterTrainLoop', max_iters=10_000, val_interval=5_000, val_before_train=True)

optim_wrapper = dict(
    type='SlimOptimWrapper',  # `--amp` makes it Bf16OptimWrapper
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    clip_grad=dict(max_norm=1.0))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=500, end=10_000)]

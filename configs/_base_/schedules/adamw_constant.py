# AdamW, warm-up, then a constant learning rate: the EMA of the weights does what a decay would.
# Change `train_cfg.max_iters` alone for a longer run.

train_cfg = dict(type='IterTrainLoop', max_iters=10_000, val_interval=5_000, val_before_train=True)

optim_wrapper = dict(
    type='SlimOptimWrapper',  # `--amp` makes it Bf16OptimWrapper
    # One kernel for all weights: half the time of a loop over them on CPU.
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    clip_grad=dict(max_norm=1.0))

param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500)]

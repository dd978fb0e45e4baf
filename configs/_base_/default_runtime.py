# What every run has, whatever it trains. docs/en/user_guides/config.md explains the keys.

default_scope = 'slimdiff'
runner_type = 'SlimRunner'

# All hooks of a run. `name=None` leaves one out; a config's `custom_hooks` adds to them.
default_hooks = dict(
    guard=dict(type='NonFiniteGuardHook'),
    speed=dict(type='SpeedHook'),
    log=dict(type='TrainLogHook', interval=50),
    progress=dict(type='ProgressHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1000, max_keep=3),
    ema=dict(type='EMAHook', decay=0.9999),
    samples=dict(type='SampleGridHook', interval=1000, num_images=36),
    spectra=dict(type='SpectrumPlotHook', interval=1000, num_images=64),
    report=dict(type='ReportHook'))

# The seed decides the weights at the start, the order of the data, timesteps and noise.
randomness = dict(seed=0)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Without a GPU slimdiff takes gloo. `timeout` (seconds) ends a run in which one process hangs.
    dist_cfg=dict(backend='nccl', timeout=1800))

# TensorBoard and W&B: `slimdiff train --track tensorboard`, or docs/en/user_guides/training_options.md.
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])

log_level = 'INFO'
log_processor = dict(by_epoch=False)
load_from = None
resume = False

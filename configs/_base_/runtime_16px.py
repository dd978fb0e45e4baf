# default_runtime.py for runs of some minutes: a shorter average, and pictures at the end only.
_base_ = './default_runtime.py'

default_hooks = dict(
    ema=dict(decay=0.999),
    checkpoint=dict(interval=5000, max_keep=1),
    samples=dict(interval=10_000, num_steps=25),
    spectra=dict(interval=10_000, num_steps=25))

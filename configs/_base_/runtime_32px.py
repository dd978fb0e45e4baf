# default_runtime.py for runs of some minutes: an average over the last few hundred iterations, and a grid and a
# checkpoint every 500.
_base_ = './default_runtime.py'

default_hooks = dict(
    ema=dict(decay=0.998),
    checkpoint=dict(interval=500),
    samples=dict(interval=500, num_steps=25),
    spectra=dict(interval=1000, num_steps=25))

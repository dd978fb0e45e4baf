# default_runtime.py for runs of a few minutes: an average over the last hundred iterations, one grid at the end, and a
# table of the figures that matter.
_base_ = './default_runtime.py'

default_hooks = dict(
    ema=dict(decay=0.99),
    checkpoint=dict(interval=500),
    samples=dict(interval=1500),
    spectra=None,
    report=dict(names=('class_accuracy', 'denoise/total', 'denoise/t0-300/top', 'fd')))

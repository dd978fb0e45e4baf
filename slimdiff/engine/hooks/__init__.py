"""Hooks: what happens around the iterations of training."""

from slimdiff.engine.hooks.checkpoint import CheckpointHook
from slimdiff.engine.hooks.ema import EMAHook, ema_weights
from slimdiff.engine.hooks.gradient_share import GradientShareHook
from slimdiff.engine.hooks.nonfinite_guard import NonFiniteError, NonFiniteGuardHook
from slimdiff.engine.hooks.progress import ProgressHook
from slimdiff.engine.hooks.report import ReportHook
from slimdiff.engine.hooks.sample_grid import SampleGridHook
from slimdiff.engine.hooks.spectrum_plot import SpectrumPlotHook
from slimdiff.engine.hooks.speed import SpeedHook
from slimdiff.engine.hooks.train_log import TrainLogHook

__all__ = [
    'CheckpointHook', 'EMAHook', 'GradientShareHook', 'NonFiniteError', 'NonFiniteGuardHook', 'ProgressHook',
    'ReportHook', 'SampleGridHook', 'SpectrumPlotHook', 'SpeedHook', 'TrainLogHook', 'ema_weights'
]

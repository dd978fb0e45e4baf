"""The engine: runner, training loop, hooks, checkpoints."""

from slimdiff.checkpoint.files import CheckpointError, CheckpointWriteError, load_checkpoint
from slimdiff.checkpoint.weights import load_weights
from slimdiff.engine.hooks import (
    CheckpointHook,
    EMAHook,
    NonFiniteError,
    NonFiniteGuardHook,
    ProgressHook,
    ReportHook,
    SampleGridHook,
    SpectrumPlotHook,
    SpeedHook,
    TrainLogHook,
    ema_weights,
)
from slimdiff.engine.loops import IterTrainLoop, TrainingInterrupted
from slimdiff.engine.optim_wrappers import Bf16OptimWrapper, SlimOptimWrapper
from slimdiff.engine.runner import SlimRunner
from slimdiff.engine.sharding import FullyShard
from slimdiff.engine.tracking import WandbBackend
from slimdiff.engine.work_dir import WorkDirError

__all__ = [
    'Bf16OptimWrapper', 'CheckpointError', 'CheckpointHook', 'CheckpointWriteError', 'EMAHook', 'FullyShard',
    'IterTrainLoop',
    'NonFiniteError', 'NonFiniteGuardHook', 'ProgressHook', 'ReportHook', 'SampleGridHook', 'SlimOptimWrapper',
    'SlimRunner', 'SpectrumPlotHook', 'SpeedHook', 'TrainLogHook', 'TrainingInterrupted', 'WandbBackend',
    'WorkDirError', 'ema_weights', 'load_checkpoint', 'load_weights'
]

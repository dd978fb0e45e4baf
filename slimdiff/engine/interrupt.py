"""Ctrl-C and SIGTERM (SLURM, torchrun) end a run in order: the iteration finishes, a checkpoint is written."""

from slimdiff.evaluation.interrupt import Interrupts

__all__ = ['Interrupts', 'TrainingInterrupted']


class TrainingInterrupted(SystemExit):
    """Training was stopped by a signal after its state was saved. ``code`` is 130 (Ctrl-C) or 143 (SIGTERM)."""

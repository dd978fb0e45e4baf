"""A pipeline made faster without training: what each step does, found by measuring, applied in one line."""

from slimdiff.calibration.engine import apply, remove
from slimdiff.calibration.plan import Plan

__all__ = ['Plan', 'apply', 'remove']

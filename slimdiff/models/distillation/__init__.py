"""What a distiller needs besides losses: a teacher, and taps on both networks."""

from slimdiff.models.distillation.bridge import Bridge
from slimdiff.models.distillation.taps import OUTPUT, TapRecorder, find_tap
from slimdiff.models.distillation.teacher import Teacher

__all__ = ['OUTPUT', 'Bridge', 'TapRecorder', 'Teacher', 'find_tap']

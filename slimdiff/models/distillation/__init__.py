"""What a distiller needs besides losses: a teacher, and taps on both networks."""

from slimdiff.models.distillation.projector import FeatureProjector
from slimdiff.models.distillation.taps import OUTPUT, TapRecorder, find_tap
from slimdiff.models.distillation.teacher import Teacher

__all__ = ['OUTPUT', 'FeatureProjector', 'TapRecorder', 'Teacher', 'find_tap']

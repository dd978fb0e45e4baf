"""The model zoo: pages and metafiles made from configs, counts and measurements."""

from slimdiff.analysis.model_zoo.entries import Counts, Entry, collect
from slimdiff.analysis.model_zoo.files import generate

__all__ = ['Counts', 'Entry', 'collect', 'generate']

"""The model zoo: pages and metafiles made from configs, counts and measurements."""

from studies.model_zoo.entries import Counts, Entry, collect
from studies.model_zoo.files import generate

__all__ = ['Counts', 'Entry', 'collect', 'generate']

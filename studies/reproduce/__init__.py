"""Experiments of many training runs: a queue that resumes, small results that are kept, and reports made of them."""

from studies.reproduce.experiment import Arm, Column, Experiment

__all__ = ['Arm', 'Column', 'Experiment']

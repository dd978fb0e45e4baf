"""The experiments that come with slimdiff: every module here with an ``EXPERIMENT`` is one."""

from __future__ import annotations

import importlib
import pkgutil

from slimdiff.spelling import did_you_mean
from studies.reproduce.experiment import Experiment


def known_experiments() -> dict[str, Experiment]:
    """All of them, by name."""
    modules = [importlib.import_module(f'{__name__}.{module.name}') for module in pkgutil.iter_modules(__path__)]
    experiments = [module.EXPERIMENT for module in modules if hasattr(module, 'EXPERIMENT')]
    return {experiment.name: experiment for experiment in experiments}


def find_experiment(name: str) -> Experiment:
    """An experiment by its name, or from a ``.json`` file.

    Raises:
        ValueError: there is none; lists those there are.
    """
    if name.endswith('.json'):
        return Experiment.from_json(name)
    known = known_experiments()
    if name not in known:
        raise ValueError(f"There is no experiment '{name}'.{did_you_mean(name, known)} slimdiff has: "
                         f'{", ".join(known)}; or give a .json file.')
    return known[name]

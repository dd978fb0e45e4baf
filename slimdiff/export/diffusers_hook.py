"""Makes ``DiffusionPipeline.from_pretrained`` find our pipeline, once ``import slimdiff`` came.

diffusers looks a pipeline's class up by its name, as an attribute of the module ``diffusers``. So that module gets a
``__getattr__`` (PEP 562), which imports our class when somebody asks for it. diffusers may be imported after slimdiff,
and slimdiff must not import it by itself (that takes seconds): hence a finder that waits for it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARY = 'diffusers'
NAME = 'SlimDiffusionPipeline'


def register() -> None:
    """Tell diffusers of the pipeline, now or as soon as it is imported."""
    if LIBRARY in sys.modules:
        extend(sys.modules[LIBRARY])
    elif not any(isinstance(finder, Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, Waiting())


def extend(module: ModuleType) -> None:
    """Give ``module`` the attribute, without importing what it stands for."""
    earlier = module.__dict__.get('__getattr__')

    def find(name: str) -> Any:
        if name == NAME:
            from slimdiff.export.pipeline import SlimDiffusionPipeline
            return SlimDiffusionPipeline
        if earlier is not None:
            return earlier(name)
        raise AttributeError(f"module '{LIBRARY}' has no attribute '{name}'")

    module.__getattr__ = find


class Waiting(MetaPathFinder):
    """Lets the other finders find diffusers, and extends it when it has been run."""

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: ModuleType | None = None) -> ModuleSpec | None:
        if name != LIBRARY:
            return None
        spec = None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, 'find_spec'):
                spec = spec or finder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_extend(module: ModuleType) -> None:
            run(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            extend(sys.modules[LIBRARY])  # diffusers puts another module in its own place

        spec.loader.exec_module = run_and_extend
        return spec

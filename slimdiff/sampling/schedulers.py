"""Every scheduler of diffusers under its own name, for ``dict(type='DDIMScheduler', ...)`` in a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers.schedulers
from diffusers import SchedulerMixin

from slimdiff.registry import SCHEDULERS, RegistryError, check_arguments, check_kind, plain, suggest


def register_diffusers_schedulers() -> None:
    """Register each scheduler class that this diffusers can import (some need extra packages)."""
    for name in dir(diffusers.schedulers):
        if not name.endswith('Scheduler') or name in SCHEDULERS.module_dict:
            continue
        # diffusers replaces a class whose dependency is missing by a placeholder, and lists some that are gone.
        cls = getattr(diffusers.schedulers, name, None)
        if inspect.isclass(cls) and issubclass(cls, SchedulerMixin):
            SCHEDULERS.register_module(name=name, module=cls)


register_diffusers_schedulers()


def build_scheduler(cfg: Mapping[str, Any] | SchedulerMixin, base: SchedulerMixin | None = None) -> SchedulerMixin:
    """Build a scheduler; settings that ``cfg`` leaves out come from ``base`` (its noise schedule above all).

    Args:
        cfg: ``dict(type='DDIMScheduler', ...)``, or a scheduler, which is returned as it is.
        base: usually the noise scheduler that the network was trained with.

    Raises:
        RegistryError: a name that diffusers lacks, or an argument that the scheduler does not take.
    """
    if isinstance(cfg, SchedulerMixin):
        return cfg
    args = plain(cfg)
    name = args.pop('type', None)
    cls = SCHEDULERS.get(name)
    if cls is None:
        raise RegistryError(f"diffusers {diffusers.__version__} has no scheduler '{name}'."
                            f"{suggest('scheduler', str(name), SCHEDULERS.module_dict)}")
    check_kind(cls, SchedulerMixin, 'scheduler')
    check_arguments(cls, args)
    return cls(**args) if base is None else cls.from_config(base.config, **args)

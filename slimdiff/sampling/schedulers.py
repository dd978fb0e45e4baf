"""Every scheduler of diffusers under its own name, for ``dict(type='DDIMScheduler', ...)`` in a config."""

from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import diffusers.schedulers
from diffusers import SchedulerMixin

from slimdiff.registry import SCHEDULERS, RegistryError, check_arguments, check_kind, plain, suggest


class SchedulerClasses(UserDict):
    """Name -> class, imported when it is asked for: most of diffusers' schedulers import ``scipy.stats``, a second."""

    def __init__(self) -> None:
        module = vars(diffusers.schedulers)
        # In place of a class whose dependency is missing, diffusers has a placeholder, there from the beginning.
        super().__init__({name: None for name in dir(diffusers.schedulers)
                          if name.endswith('Scheduler') and (name not in module or is_scheduler(module[name]))})

    def __getitem__(self, name: str) -> type[SchedulerMixin]:
        if self.data[name] is None:
            self.data[name] = getattr(diffusers.schedulers, name, None)
        if not is_scheduler(self.data[name]):  # diffusers lists some that are gone
            raise KeyError(name)
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        try:
            return self[name] is not None
        except KeyError:
            return False


def is_scheduler(cls: Any) -> bool:
    """Whether this is a class of diffusers' schedulers."""
    return inspect.isclass(cls) and issubclass(cls, SchedulerMixin)


SCHEDULERS._module_dict = SchedulerClasses()


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

"""Experiment trackers beside the log: TensorBoard and Weights & Biases, by mmengine's backends of its visualizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend, WandbVisBackend

from slimdiff.optional import require_packages

#: name of a tracker, which is also its package and the extra that brings it -> the backend
TRACKERS = {'tensorboard': 'TensorboardVisBackend', 'wandb': 'WandbBackend'}


@VISBACKENDS.register_module()
class WandbBackend(WandbVisBackend):
    """mmengine's, with iterations on the axis: it counts calls.

    ``wandb.init`` gets ``init_kwargs``, and reads W&B's environment variables (``WANDB_PROJECT``, ``WANDB_NAME``,
    ``WANDB_MODE=offline``, ...). The config goes along; no code is uploaded. A run appears there when the training has
    begun, not where a start is refused.
    """

    _config: Config | None = None

    def _init_env(self) -> None:
        super()._init_env()
        if self._config is not None:
            self._wandb.config.update(self._config.to_dict(), allow_val_change=True)

    def add_config(self, config: Config, **unused: Any) -> None:
        self._config = config

    def add_scalars(self, scalar_dict: Mapping[str, float], step: int = 0, *unused: Any, **more: Any) -> None:
        self.experiment.log(dict(scalar_dict), step=step)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **unused: Any) -> None:
        self.experiment.log({name: self.experiment.Image(image)}, step=step)

    def close(self) -> None:
        if hasattr(self, '_wandb'):
            self._wandb.finish()


def add_trackers(cfg: Config, names: list[str]) -> None:
    """Add trackers (keys of :data:`TRACKERS`) to a config that hasn't them."""
    visualizer = cfg.get('visualizer') or dict(type='Visualizer')
    backends = list(visualizer.get('vis_backends') or [dict(type='LocalVisBackend')])
    for name in dict.fromkeys(names):
        if not any(backend['type'] == TRACKERS[name] for backend in backends):
            backends.append(dict(type=TRACKERS[name]))
    cfg.visualizer = {**visualizer, 'vis_backends': backends}


def check_trackers(visualizer: Any) -> None:
    """Raise MissingPackageError if a visualizer has a tracker whose package isn't here."""
    for backend in trackers_of(visualizer):
        name = next((key for key in TRACKERS if key in type(backend).__name__.lower()), None)
        if name:
            require_packages([name], name, type(backend).__name__)


def trackers_of(visualizer: Any) -> Iterator[Any]:
    """The backends of a visualizer that write elsewhere than into the work dir's own log."""
    return (backend for backend in visualizer._vis_backends.values() if not isinstance(backend, LocalVisBackend))

"""The loop behind ``val_cfg`` and ``test_cfg``: sample, measure, tell the hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from slimdiff.arguments import plain
from slimdiff.evaluation.common import whole_weights
from slimdiff.evaluation.evaluate import build_metrics, check_counts, evaluate, noise_floor
from slimdiff.evaluation.metrics.base import SetMetric
from slimdiff.registry import LOOPS


@LOOPS.register_module()
class EvaluationLoop(BaseLoop):
    """Evaluate the model with :func:`slimdiff.evaluation.evaluate`, as validation or as test.

    ``val_cfg = dict(type='EvaluationLoop', num_images=1000)`` and ``val_evaluator = [dict(type='FrechetDistance'),
    ...]``. The EMA hook swaps its weights in at ``before_val_epoch``. The statistics of the real images are kept, so
    that a validation every N iterations reads the data set once. A model with ``evaluation_variants()`` (of several
    widths, say), a context manager for each prefix of the figures' names, is measured in each of them.

    Args:
        runner, dataloader, evaluator: given by the Runner; ``evaluator`` is the list of metric configs.
        num_images, batch_size, seed, sampling, num_real, amp, progress: see :func:`slimdiff.evaluation.evaluate`.
        floor_splits: also measure real against real over so many splits, once, as ``floor/<figure>`` (mean) and
            ``floor/<figure>_std``; 0 doesn't.

    Raises:
        RegistryError: an unknown metric or argument of one.
    """

    def __init__(self,
                 runner: Any,
                 dataloader: DataLoader | Mapping[str, Any],
                 evaluator: Sequence[Mapping[str, Any]],
                 num_images: int = 1000,
                 batch_size: int = 64,
                 seed: int = 0,
                 sampling: Mapping[str, Any] | None = None,
                 num_real: int | None = None,
                 floor_splits: int = 0,
                 amp: bool = False,
                 progress: bool = True) -> None:
        super().__init__(runner, dataloader)
        self.metrics = build_metrics(evaluator)
        asked = plain(sampling or {})
        self.settings = dict(num_images=num_images, batch_size=batch_size, seed=seed, sampling=asked,
                             num_real=num_real, amp=amp, progress=progress)
        if any(isinstance(metric, SetMetric) for metric in self.metrics):  # now, not after the training before
            check_counts(num_images, batch_size, num_real)
            if floor_splits and floor_splits < 2:
                raise ValueError(f'floor_splits={floor_splits}: two or more are needed for a spread, or 0 for none.')
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            if hasattr(model, 'sampler_of'):
                model.sampler_of(asked.get('scheduler'), asked.get('num_steps'))
                model.check_guidance(asked.get('guidance_scale'))
        self.floor_splits = floor_splits
        self._floor: dict[str, float] | None = None

    @property
    def stage(self) -> str:
        """'test' if the runner runs this as its test loop, else 'val': it names the hooks and the logged figures."""
        return 'test' if getattr(self.runner, '_test_loop', None) is self else 'val'

    def run(self) -> dict[str, float]:
        """Evaluate once and return the figures."""
        stage, model = self.stage, self.runner.model
        self.runner.call_hook(f'before_{stage}')
        self.runner.call_hook(f'before_{stage}_epoch')
        # The wrapper's own mode doesn't matter: evaluate() puts the model in evaluation mode and back.
        model = model.module if is_model_wrapper(model) else model
        variants = model.evaluation_variants() if hasattr(model, 'evaluation_variants') else {'': nullcontext()}
        figures: dict[str, float] = {}
        for prefix, variant in variants.items():
            with whole_weights(self.runner.model), variant:
                measured = evaluate(model, self.dataloader, self.metrics, **self.settings)
            figures |= {f'{prefix}{name}': value for name, value in measured.items()}
        figures |= self._measure_floor()
        self.runner.call_hook(f'after_{stage}_epoch', metrics=figures)
        self.runner.call_hook(f'after_{stage}')
        return figures

    def _measure_floor(self) -> dict[str, float]:
        if self.floor_splits and self._floor is None:
            keys = ('num_images', 'num_real', 'progress')
            floors = noise_floor(self.dataloader, self.metrics, splits=self.floor_splits,
                                 **{key: self.settings[key] for key in keys})
            self._floor = {f'floor/{name}': floor['mean'] for name, floor in floors.items()}
            self._floor |= {f'floor/{name}_std': floor['std'] for name, floor in floors.items()}
        return self._floor or {}

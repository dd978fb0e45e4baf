"""Pictures of what the model has learnt so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from PIL import Image
from torch import Tensor

from slimdiff.engine.best_effort import best_effort
from slimdiff.engine.hooks.ema import ema_weights
from slimdiff.engine.tracking import trackers_of
from slimdiff.evaluation.common import evaluating, takes_part, whole_weights
from slimdiff.registry import HOOKS
from slimdiff.sampling.images import save_grid, to_uint8


def generate(runner: Any, num_images: int, seed: int, labels: Sequence[int] | None = None,
             num_steps: int | None = None) -> Tensor | None:
    """Sample images 0 ... num_images - 1 of a seed with the averaged weights, in the precision of training.

    The main process does; the others (those that :func:`~slimdiff.evaluation.common.takes_part` names) get None.
    """
    amp = getattr(runner.optim_wrapper, 'autocast_dtype', None) is not None
    model = runner.unwrapped_model
    fixed = None if labels is None else torch.tensor([labels[i % len(labels)] for i in range(num_images)])
    with ema_weights(runner), whole_weights(runner.model):
        if not is_main_process():
            return None
        with evaluating(model, amp):
            return model.sample(range(num_images), seed=seed, labels=fixed, num_steps=num_steps).float().cpu()


@HOOKS.register_module()
class SampleGridHook(Hook):
    """Write ``samples/iter_N.png`` in the work dir every ``interval`` iterations and at the end, also to trackers.

    The same noise and labels every time, so that the files form a film. Training's random numbers are not touched.

    Args:
        interval: iterations between two grids.
        num_images: in a grid.
        seed: of the noise.
        labels: classes, repeated as needed; by default all in turn.
        num_steps: denoising steps; by default the model's.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1000, num_images: int = 36, seed: int = 0, labels: Sequence[int] | None = None,
                 num_steps: int | None = None) -> None:
        if interval < 1 or num_images < 1:
            raise ValueError(f'SampleGridHook: interval={interval} and num_images={num_images} must be at least 1.')
        self.interval, self.num_images, self.seed = interval, num_images, seed
        self.labels, self.num_steps = labels, num_steps

    def before_train(self, runner: Any) -> None:
        if hasattr(runner.unwrapped_model, 'sampler_of'):  # its errors come before the training
            runner.unwrapped_model.sampler_of(num_steps=self.num_steps)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = batch_idx + 1
        if (done % self.interval == 0 or done == runner.max_iters) and takes_part(runner.model):
            images = generate(runner, self.num_images, self.seed, self.labels, self.num_steps)
            runner.model.train()
            if images is None:
                return
            path = Path(runner.work_dir) / 'samples' / f'iter_{done}.png'
            with best_effort(runner, path):
                path.parent.mkdir(exist_ok=True)
                save_grid(to_uint8(images), path)
                for tracker in trackers_of(runner.visualizer):
                    tracker.add_image('samples', np.asarray(Image.open(path).convert('RGB')), step=done)

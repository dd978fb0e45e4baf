"""A plan in the words of other libraries, as far as they have them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from torch import nn

from slimdiff.calibration.features import is_unet
from slimdiff.calibration.frontier import every
from slimdiff.calibration.plan import FULL
from slimdiff.models.backbones.blocks import block_lists


def settings_of(actions: Sequence[str], denoiser: nn.Module) -> dict[str, Any]:
    """Settings by library, for those that work on this denoiser.

    Each has ``exact``: whether the library then does what the plan does, or only runs the full network as often. Not
    among them are caches that decide while they run, by a threshold: diffusers' ``FirstBlockCacheConfig``.
    """
    steps, full = len(actions), [name == FULL for name in actions]
    leading = next((i for i, value in enumerate(full) if not value), steps)
    longest = max((len(list(run)) for value, run in groupby(full) if not value), default=0)
    interval = max(1, round(steps / max(1, sum(full))))
    kinds = {name.partition(':')[0] for name in actions} - {FULL}
    found: dict[str, Any] = {}
    if is_unet(denoiser):
        features = next((name for name in actions if name.startswith('features')), None)
        found['DeepCache'] = dict(
            DeepCacheSDHelper=dict(cache_interval=interval),
            exact=features is not None and any(tuple(actions) == every(n, features, steps) for n in range(2, steps)),
            note='DeepCache runs the full network at equal intervals.')
    if block_lists(denoiser):
        fronts = {int(name.partition(':')[2]) for name in actions if name.startswith('blocks')}
        found['cache-dit'] = dict(
            DBCacheConfig=dict(num_inference_steps=steps, steps_computation_mask=[int(value) for value in full],
                               steps_computation_policy='static', Fn_compute_blocks=min(fronts, default=1),
                               Bn_compute_blocks=0),
            exact=kinds <= {'blocks'} and len(fronts) < 2,
            note='1 runs all blocks, 0 the first Fn; every other action of the plan became a 0.')
        found['diffusers'] = dict(
            MagCacheConfig=dict(num_inference_steps=steps, max_skip_steps=max(1, longest),
                                retention_ratio=round(leading / steps, 4)),
            TaylorSeerCacheConfig=dict(cache_interval=interval, disable_cache_before_step=leading),
            exact=False,
            note='MagCache also needs mag_ratios, which MagCacheConfig(calibrate=True, ...) prints, and decides by '
                 'threshold within these bounds; TaylorSeer runs the full network at equal intervals.')
    return found

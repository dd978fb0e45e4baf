"""Training at several widths at once: the sandwich rule."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimdiff.models.algorithms.diffusion_model import DiffusionModel
from slimdiff.models.algorithms.distiller import Distiller
from slimdiff.models.algorithms.draws import NoisedBatch
from slimdiff.models.backbones.protocol import (
    Slimmable,
    at_run,
    axes_of,
    check_run,
    check_stages,
    require,
    runs_of,
)
from slimdiff.models.distillation import OUTPUT, TapRecorder
from slimdiff.registry import MODELS
from slimdiff.sampling import Run, mix_seed
from slimdiff.sampling.actions import FULL


class SandwichTraining:
    """What :class:`SlimmableDiffusion` and :class:`SlimmableDistiller` share: which runs an iteration trains.

    The sandwich rule (Yu and Huang 2019, section 4.1): the widest, the narrowest, and ``num_random`` others drawn
    in every iteration, the same on all ranks. A network that also has depths has them at every width: the widest runs
    all blocks, the narrowest the fewest. The losses are averaged with ``width_weights``. (DDSM adds them up, which
    under Adam is another epsilon, and other clipping.)
    """

    training_keys = (*Distiller.training_keys, 'num_random', 'fresh_noise', 'width_weights', 'eval_widths', 'inplace')

    def _set_widths(self, num_random: int, fresh_noise: bool, width_weights: Mapping[Any, float] | None,
                    eval_widths: Sequence[float | Sequence[float]] | None) -> None:
        require(self.unet, Slimmable, f'{type(self).__name__} trains several widths: it',
                "take one that has, such as unet=dict(type='SlimmableUNet', widths=(...))")
        runs = runs_of(self.unet)
        widths = sorted({run.width for run in runs})
        if not 0 <= num_random <= max(len(runs) - 2, 0):
            raise ValueError(f'num_random: got {num_random}; besides the widest and the narrowest of '
                             f'{len(runs)} widths there are {max(len(runs) - 2, 0)}.')
        weights = {float(width): float(weight) for width, weight in (width_weights or {}).items()}
        for width, weight in weights.items():
            if width not in widths or weight <= 0:
                raise ValueError(f'width_weights: got {width:g}: {weight:g}; give a positive weight for widths of '
                                 f'{", ".join(f"{w:g}" for w in widths)}.')
        self.num_random = num_random
        self.fresh_noise = fresh_noise
        self.width_weights = {width: weights.get(width, 1.0) for width in widths}
        # By default those at full depth or full width, and the smallest.
        self.eval_runs = ([run for run in runs if 1 in (run.width, run.depth) or run == runs[0]] if eval_widths is None
                          else sorted(check_run(self.unet, Run(*one) if isinstance(one, (list, tuple)) else one)
                                      for one in eval_widths))
        self._width_seed: int | None = None

    @classmethod
    def serving_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """A plain :class:`DiffusionModel` with the slimmable network."""
        return {**super().serving_config(config), 'type': 'DiffusionModel'}

    def seed_step(self, seed: int) -> None:
        """As :meth:`DiffusionModel.seed_step`; the widths are drawn from it, too."""
        super().seed_step(seed)
        self._width_seed = seed

    def draw_runs(self, seed: int | None) -> dict[str, list[Run]]:
        """The runs of an iteration by their place in the sandwich."""
        runs = runs_of(self.unet)
        narrowest, *between, widest = runs if len(runs) > 1 else (None, *runs)
        draw = random.Random(mix_seed(seed, 1)) if seed is not None else random
        return {'widest': [widest], 'narrowest': [] if narrowest is None else [narrowest],
                'between': draw.sample(between, self.num_random)}

    def renoised(self, batch: NoisedBatch, seed: int | None, number: int) -> NoisedBatch:
        """The same clean inputs at other timesteps with other noise."""
        if seed is not None:
            DiffusionModel.seed_step(self, mix_seed(seed, 2, number))
        t, noise, _ = self.draw(batch.x0.shape[0], batch.x0.shape[1:])
        return dataclasses.replace(batch, t=t, noise=noise, x_t=self.add_noise(batch.x0, noise, t))

    def loss_terms(self, batch: NoisedBatch) -> dict[str, Tensor]:
        """The weighted terms of the loss of every run in this iteration, by place and name: ``widest_denoising``."""
        seed, self._width_seed = self._width_seed, None
        places = [(place, run) for place, runs in self.draw_runs(seed).items() for run in runs]
        total = sum(self.width_weights[run.width] for _, run in places)
        terms: dict[str, Tensor] = {}
        shared: dict[str, Any] = {}  # what later runs of this iteration need of earlier ones
        for number, (place, run) in enumerate(places):
            seen = self.renoised(batch, seed, number) if self.fresh_noise and number else batch
            with at_run(self.unet, run):
                own = self.run_terms(seen, run, shared)
            for name, term in own.items():
                name = f'{place}_{name}'
                terms[name] = terms.get(name, 0) + term * (self.width_weights[run.width] / total)
        return terms

    def run_terms(self, batch: NoisedBatch, run: Run, shared: dict[str, Any]) -> dict[str, Tensor]:
        """The weighted terms of the loss of ``run``, which is active. The widest comes first.

        Args:
            shared: whatever it leaves here for the runs after it.
        """
        raise NotImplementedError

    def evaluation_variants(self) -> dict[str, contextlib.AbstractContextManager]:
        """What an evaluation measures: the full network under the metrics' own names, others as ``width0.25/<name>`` or
        ``width0.25-depth0.5/<name>``."""
        return {'' if run == FULL else f'width{run.size.replace(" depth ", "-depth")}/': at_run(self.unet, run)
                for run in reversed(self.eval_runs)}


@MODELS.register_module()
class SlimmableDiffusion(SandwichTraining, DiffusionModel):
    """Train a :class:`~slimdiff.SlimmableUNet`: the supernet of DDSM (Yang et al., ICLR 2024, section 3.2).

    Args:
        unet: config of a SlimmableUNet.
        num_random: widths besides the widest and the narrowest in an iteration; DDSM has 1.
        fresh_noise: every width gets its own timesteps and noise, as in DDSM; else they share them.
        inplace: weight of in-place distillation: narrower widths also learn the widest one's prediction
            (mean squared error, no gradient into the widest; Yu and Huang 2019, section 4.2). It needs
            ``fresh_noise=False``.
        width_weights: ``{width: weight}`` of the loss of each width, 1 by default; relative to one another.
        eval_widths: what a validation measures: widths, or (width, depth); by default all widths, and all depths.
        **settings: arguments of :class:`DiffusionModel`.

    Raises:
        ValueError: a network of one width, or an argument out of range.
    """

    def __init__(self, unet: Mapping[str, Any], num_random: int = 1, fresh_noise: bool = True, inplace: float = 0.0,
                 width_weights: Mapping[Any, float] | None = None, eval_widths: Sequence[Any] | None = None,
                 **settings: Any) -> None:
        super().__init__(unet=unet, **settings)
        if inplace < 0 or (inplace and fresh_noise):
            raise ValueError(f'inplace: got {inplace} with fresh_noise={fresh_noise}; it is a weight of at least 0, '
                             'and above 0 all widths must see the same noise: fresh_noise=False.')
        self._set_widths(num_random, fresh_noise, width_weights, eval_widths)
        self.inplace = inplace

    def run_terms(self, batch: NoisedBatch, run: Run, shared: dict[str, Any]) -> dict[str, Tensor]:
        """The denoising error of the network at its active width and depth, and its distance from the widest."""
        prediction = self.predict(batch.x_t, batch.t, batch.labels, batch.context)
        terms = {'denoising': self.denoising_loss(prediction, batch)}
        if self.inplace and 'widest' in shared:
            distance = (prediction.float() - shared['widest'].float()).square().mean()
            terms['inplace'] = self.inplace * distance
        shared.setdefault('widest', prediction.detach())
        return terms


@MODELS.register_module()
class SlimmableDistiller(SandwichTraining, Distiller):
    """Distil a large teacher into every width of a :class:`~slimdiff.SlimmableUNet`: SD and DDSM together.

    The losses are those of :class:`Distiller`, for each width of the sandwich. At a narrower width a feature map lacks
    the channels that were dropped: they are compared as zeros before a projection, which then uses its weights for
    the channels that are there.

    Args:
        unet, teacher, losses: see :class:`Distiller`; taps are ``output`` and stages (``down1``, ``mid``, ``up1``).
        fresh_noise: every width gets its own timesteps and noise, and the teacher runs for each; by default they
            share them, and it runs once.
        num_random, width_weights, eval_widths: see :class:`SlimmableDiffusion`.
        **settings: arguments of :class:`DiffusionModel`.

    Raises:
        ValueError: see :class:`Distiller` and :class:`SlimmableDiffusion`; a tap inside a stage.
    """

    def __init__(self, unet: Mapping[str, Any], teacher: Mapping[str, Any], losses: Sequence[Mapping[str, Any]],
                 num_random: int = 1, fresh_noise: bool = False, width_weights: Mapping[Any, float] | None = None,
                 eval_widths: Sequence[Any] | None = None, **settings: Any) -> None:
        super().__init__(unet=unet, teacher=teacher, losses=losses, **settings)
        self._set_widths(num_random, fresh_noise, width_weights, eval_widths)
        maps = check_stages(self.unet, list(self.student_paths.values()))
        self._recorders: dict[Run, tuple[nn.Module, TapRecorder]] = {}
        #: (tap's path, width) -> where the channels of that width stand among all
        self._kept = {(path, width): torch.cat([torch.arange(*r) for r in maps[path].ranges(width)])
                      for path in self.student_paths.values() for width in self.width_weights}

    def run_terms(self, batch: NoisedBatch, run: Run, shared: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of :class:`Distiller` at the active width and depth. Runs of the same noise share the teacher's."""
        if shared.get('batch') is not batch:
            shared.update(batch=batch, teacher=self.teacher_outputs(batch))
        return self.compare(batch, self.student_outputs(batch, run), dict(shared['teacher']))

    def student_outputs(self, batch: NoisedBatch, run: Run = FULL) -> dict[str, Tensor]:
        """As of a :class:`Distiller`; a narrower width's features have zeros where the width has no channels."""
        if run == FULL or not self.student_paths:
            return super().student_outputs(batch)
        network = self.unet.network_at(*axes_of(run))
        if self._recorders.get(run, (None, ))[0] is not network:  # the first time, or a copy of the model
            self._recorders[run] = network, TapRecorder(network, self.student_paths.values())
        recorder = self._recorders[run][1]
        with recorder:
            prediction = self.predict(batch.x_t, batch.t, batch.labels, batch.context)
        features = recorder.take()
        return {OUTPUT: prediction} | {tap: self._widened(path, features[path], run.width)
                                       for tap, path in self.student_paths.items()}

    def _widened(self, path: str, features: Tensor, width: float) -> Tensor:
        """Features (N, w C, H, W) at the places of their channels among (N, C, H, W), zeros elsewhere."""
        wide = features.new_zeros(len(features), len(self._kept[path, 1.0]), *features.shape[2:])
        return wide.index_copy(1, self._kept[path, width].to(features.device), features)

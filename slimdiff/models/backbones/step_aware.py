"""Every denoising step its own width: dense networks behind the signature of one UNet.

DDSM (Yang et al., ICLR 2024) slices one slimmable network again at every step, and 76 % fewer FLOPs become 1.48x the
speed. Here the widths that an allocation uses are dense networks of their own, made once: a step costs what its network
costs. The four widths of DDSM together take less than twice the memory of the full network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn

from slimdiff.models.backbones.adapt import Prediction, given, predict
from slimdiff.models.backbones.classes import find_class, make
from slimdiff.models.backbones.network_set import (
    Memory,
    arguments_of,
    check_alike,
    check_same_timesteps,
    check_timesteps,
    description_of,
    key_of,
    size_of,
)
from slimdiff.models.backbones.protocol import ReusableFeatures, network_of, require, runs_of
from slimdiff.models.backbones.steps import State, take_step
from slimdiff.sampling.actions import FULL, ByRun, Reuse, Run
from slimdiff.sampling.allocation import StepAllocation
from slimdiff.sampling.schedulers import build_scheduler

#: calls of one step, each with its own conditions, that are told apart
MOST_CONDITIONS = 4


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a trajectory.

    Args:
        timestep: of the step.
        kind: shape, device and dtype of its batch, and whether it was in inference mode.
        conditions: of the call.
        state: what it leaves to the next one.
    """
    timestep: float
    kind: tuple[Any, ...]
    conditions: Mapping[str, Tensor]
    state: State


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and torch.equal(a, b)
        for a, b in zip(one.values(), other.values()))


class StepAwareUNet(ModelMixin, ConfigMixin):
    """A network for each denoising step, chosen by a :class:`~slimdiff.sampling.allocation.StepAllocation`.

    Signature, ``config``, ``dtype`` and ``device`` are a UNet's, so samplers, metrics and pipelines run it unchanged.

    A *scalar* timestep is a step of a trajectory: all samples go through one network, and ``Reuse`` takes what the step
    before has left: its prediction, or the deep features of the width last run, around which only the first stage runs
    (:meth:`slimdiff.UNet.shallow`; DeepCache, Ma et al., CVPR 2024). Guidance may call once with each of its
    conditions: a call reuses what one of the same conditions has left. A trajectory ends where the timestep does not
    fall, or the batch has another shape, device or dtype. One that begins lower than the last one ended (a picture that
    is noised half-way) looks like its continuation: call :meth:`reset` before it if the allocation reuses.

    A *tensor* of timesteps (N,) is a batch of independent samples, as in training and metrics, even if all are equal:
    each width runs once, on the samples that are its own, and nothing is reused.

    Where there is nothing to reuse, the width of the next noisier segment that runs one runs.

    Args:
        networks: run, or width, -> network; those that the allocation doesn't use are not kept.
        allocation: which of them runs when.

    Raises:
        ValueError: a width without a network, another number of training timesteps than the networks', networks that
            don't take the same input, or features to be reused of a network that gives none.
    """

    def __init__(self, networks: Mapping[Run | float, nn.Module], allocation: StepAllocation) -> None:
        super().__init__()
        networks = ByRun(networks)
        allocation.check_runs(networks)
        full = networks[max(networks)]
        check_alike(networks)
        check_timesteps(allocation, full)
        self._keeps_features = Reuse('features') in [segment.action for segment in allocation.segments]
        if self._keeps_features:
            for run in allocation.runs:
                require(networks[run], ReusableFeatures, 'To reuse features', "reuse the 'prediction'")
        self.allocation = allocation
        self.networks = nn.ModuleDict({key_of(run): networks[run] for run in allocation.runs})
        self._full_bytes = size_of(full)
        self._last: list[Step] = []  # of each condition, the newest first
        self._compiled: dict[tuple[Run, str], Any] = {}
        widest = networks[max(allocation.runs)]
        self.register_to_config(**arguments_of(widest), _allocation=allocation.to_dict(), _supernet=None,
                                _networks={run.size: description_of(networks[run]) for run in allocation.runs})

    @classmethod
    def from_supernet(cls, supernet: nn.Module, allocation: StepAllocation) -> StepAwareUNet:
        """The dense networks of a :class:`~slimdiff.SlimmableUNet` at the widths that the allocation uses.

        Any other UNet is its own and only width, 1: there is still ``Reuse`` to save steps.

        Raises:
            ValueError: a width that ``supernet`` has not, and what the constructor refuses.
        """
        allocation.check_runs(runs_of(supernet))
        check_timesteps(allocation, supernet)
        networks = {run: network_of(supernet, run) for run in allocation.runs}
        model = cls(networks, allocation)
        model._full_bytes = size_of(supernet)
        if FULL in networks:  # its weights are the supernet's, and tell the others
            model.register_to_config(**arguments_of(supernet), _supernet=description_of(supernet)['class'],
                                     _networks=None)
        return model

    # ---- a step -----------------------------------------------------------------------------------------------

    def forward(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, return_dict: bool = True) -> Prediction | tuple[Tensor]:
        """As :meth:`slimdiff.UNet.forward`.

        Raises:
            ValueError: a timestep that the allocation doesn't know.
        """
        conditions = given(class_labels, encoder_hidden_states)
        times = torch.as_tensor(timestep)
        if times.dim() == 0:
            prediction = self._next(sample, times, conditions)
        else:
            prediction = self._independent(sample, times.expand(len(sample)), conditions)
        return Prediction(sample=prediction) if return_dict else (prediction, )

    def _next(self, sample: Tensor, times: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The next step of a trajectory."""
        t = float(times)
        # Tensors of inference mode can't be used outside of it.
        kind = (sample.shape, sample.device, sample.dtype, torch.is_inference_mode_enabled())
        action, kept = self.allocation.action_at(t), [s for s in self._last if s.kind == kind and s.timestep >= t]
        same = next((step for step in kept if _equal(step.conditions, conditions)), None)
        # At a repeated timestep nothing is reused: it may be the first of another trajectory of a single step.
        last = same if same is not None and t < same.timestep else None
        if last is None and isinstance(action, Reuse):
            action = self.run_at(t)
        # A tensor of one stride for all steps: to torch.compile, a number would be another program at each.
        times = times.to(sample.device).expand(len(sample)).contiguous()
        state = take_step(self._method, action, None if last is None else last.state, sample, times, conditions,
                          self._keeps_features)
        if self.allocation.uses_reuse:  # a copy is kept: what is returned is the caller's, who may overwrite it
            features = None if state.features is None else state.features.detach()
            copied = same.conditions if same is not None else {k: v.detach().clone() for k, v in conditions.items()}
            new = Step(t, kind, copied, State(state.run, state.prediction.detach().clone(), features))
            # Conditions may be others at every step: no more are kept than guidance has.
            self._last = [new, *(step for step in kept if step is not same)][:MOST_CONDITIONS]
        return state.prediction

    def _independent(self, sample: Tensor, times: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Samples that have nothing to do with each other: each width runs on its own."""
        self.reset()
        runs = [self.run_at(t) for t in times.tolist()]
        times = times.to(sample.device)
        if len(set(runs)) == 1:
            return predict(self.network(runs[0]), sample, times.contiguous(), **conditions)
        order, predictions = [], []
        for run in sorted(set(runs)):
            rows = [i for i, other in enumerate(runs) if other == run]
            parts = {name: value[rows] for name, value in conditions.items()}
            predictions.append(predict(self.network(run), sample[rows], times[rows], **parts))
            order += rows
        return torch.cat(predictions)[torch.tensor(order).argsort().to(sample.device)]

    def run_at(self, t: float) -> Run:
        """What runs at timestep ``t`` if nothing can be reused: the run of the next noisier segment that has one."""
        return self.allocation.run_at(t)

    def reset(self) -> None:
        """Forget the trajectory: the next step is the first of another."""
        self._last = []

    # ---- the networks -----------------------------------------------------------------------------------------

    def network(self, run: Run | float) -> nn.Module:
        """The dense network of a run, or of a width at full depth."""
        return self.networks[key_of(Run.of(run))]

    def _method(self, run: Run, name: str) -> Any:
        return self._compiled.get((run, name)) or getattr(self.network(run), name)

    @property
    def precondition(self) -> nn.Module | None:
        """Of the networks; pipelines ask for it to know which precision they want their input in."""
        return getattr(self.network(max(self.allocation.runs)), 'precondition', None)

    def memory(self) -> Memory:
        """What the networks take, and what the full one does (that of the supernet they come from, if any)."""
        return Memory({run: size_of(self.network(run)) for run in self.allocation.runs}, self._full_bytes)

    def compile(self, **kwargs: Any) -> None:
        """``torch.compile`` each network, with these arguments: a program for each width, and for its shallow part.

        They are made when they are first run, and kept from step to step and from one trajectory to the next; another
        batch size makes new ones.
        """
        for run in self.allocation.runs:
            self.network(run).compile(**kwargs)
            for method in ('with_features', 'shallow') if self._keeps_features else ():
                self._compiled[run, method] = torch.compile(getattr(self.network(run), method), **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), '_last': [], '_compiled': {}}  # a copy starts from scratch

    # ---- files ------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str, is_main_process: bool = True, save_function: Any = None,
                        safe_serialization: bool = True, variant: str | None = None,
                        max_shard_size: int | str = '10GB') -> None:
        """Write ``config.json``, with the allocation in it, and the weights once.

        Those of a supernet that runs at width 1 are the supernet's own, so the folder is one of that, too
        (``SlimmableUNet.from_pretrained``). Otherwise each network's.
        """
        arguments = dict(is_main_process=is_main_process, save_function=save_function,
                         safe_serialization=safe_serialization, variant=variant, max_shard_size=max_shard_size)
        if self.config._supernet is None:
            super().save_pretrained(save_directory, **arguments)
            return
        self.network(1.0).save_pretrained(save_directory, **arguments)
        if is_main_process:
            self.save_config(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs: Any) -> StepAwareUNet:
        """Read a folder of :meth:`save_pretrained`; ``kwargs`` are those of diffusers' models."""
        where = ('subfolder', 'cache_dir', 'force_download', 'proxies', 'local_files_only', 'token', 'revision')
        config = cls.load_config(pretrained_model_name_or_path, **{k: kwargs[k] for k in where if k in kwargs})
        if '_allocation' not in config:
            raise ValueError(f'{pretrained_model_name_or_path} holds a {config.get("_class_name")}, no StepAwareUNet: '
                             'its config.json has no _allocation. Load it with its own class, and give it one by '
                             'StepAwareUNet.from_supernet(network, allocation).')
        if config.get('_supernet') is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        loaded = find_class(config['_supernet']).from_pretrained(pretrained_model_name_or_path, **kwargs)
        supernet, *info = loaded if kwargs.get('output_loading_info') else (loaded, )
        model = cls.from_supernet(supernet, StepAllocation.from_dict(config['_allocation'])).eval()
        return (model, *info) if info else model

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> StepAwareUNet:
        """Networks of the saved configs, with random weights."""
        if not config.get('_networks'):
            arguments = {k: v for k, v in config.items() if not k.startswith('_')}
            return cls.from_supernet(make(find_class(config['_supernet']), arguments),
                                     StepAllocation.from_dict(config['_allocation']))
        allocation = StepAllocation.from_dict(config['_allocation'])
        networks = {Run.parse(size, allocation.runs): make(find_class(found['class']), found['config'])
                    for size, found in config['_networks'].items()}
        return cls(networks, allocation)


def make_step_aware(model: Any, allocation: StepAllocation) -> Any:
    """Put a :class:`StepAwareUNet` of its own network in a :class:`~slimdiff.models.algorithms.DiffusionModel`.

    An allocation with timesteps of its own decides on those of the model's sampler, too.

    Raises:
        ValueError: an allocation for another noise process or number of training timesteps, or for widths that the
            network hasn't.
    """
    check_same_timesteps(allocation, model.noise_process)
    model.unet = StepAwareUNet.from_supernet(model.unet, allocation)
    return at_its_timesteps(model)


def at_its_timesteps(model: Any) -> Any:
    """Let the model's sampler take the timesteps of its network's allocation, if that has some.

    Raises:
        ValueError: a sampler that can't.
    """
    timesteps = model.unet.allocation.timesteps
    if timesteps is not None:
        model.sampler = build_scheduler({'timesteps': list(timesteps)}, base=model.sampler)
        model.num_steps = len(timesteps)
    return model


# The path that exported folders name; it will not move.
StepAwareUNet.__module__ = 'slimdiff'

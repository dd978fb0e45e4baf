"""``allocation.json`` of ``slimdiff calibrate``: one action for each step of one sampler."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from slimdiff.checkpoint import read_json, write_json

VERSION = 1
KIND = 'calibrated'
FULL = 'full'


def denoiser_of(pipe: DiffusionPipeline) -> tuple[str, nn.Module]:
    """The name and the network of the component that denoises.

    Raises:
        ValueError: the pipeline has none that can be found.
    """
    for name in ('unet', 'transformer'):
        network = getattr(pipe, name, None)
        if isinstance(network, nn.Module):
            return name, network
    parts = ', '.join(name for name, part in getattr(pipe, 'components', {}).items() if isinstance(part, nn.Module))
    raise ValueError(f'{type(pipe).__name__} has no denoiser that can be found: neither a unet nor a transformer among '
                     f'its networks ({parts or "none"}).')


def plain_network(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``."""
    return getattr(network, '_orig_mod', network)


def architecture_of(network: nn.Module) -> str:
    """Class and a digest of the config: alike for a model and its fine-tuned copies."""
    network = plain_network(network)
    config = {key: value for key, value in dict(getattr(network, 'config', {})).items() if not key.startswith('_')}
    text = json.dumps(config, sort_keys=True, default=str)
    return f'{type(network).__name__} {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}'


@dataclasses.dataclass(frozen=True)
class Plan:
    """One action for each step.

    Args:
        actions: names of :mod:`slimdiff.calibration.actions`, the noisiest step first.
        denoiser: what :func:`architecture_of` says of the network that it is for.
        scheduler: class of the sampler.
        also: where the smaller model lies, if an action runs it.

    Raises:
        ValueError: no actions, or a first one that has nothing to reuse yet.
    """
    actions: tuple[str, ...]
    denoiser: str
    scheduler: str
    also: str | None = None

    def __post_init__(self) -> None:
        if not self.actions or not all(isinstance(name, str) for name in self.actions):
            raise ValueError(f'allocation: actions must be a list of names, one for each step; got {self.actions!r}.')
        if self.actions[0].partition(':')[0] in ('prediction', 'extrapolate', 'features', 'blocks'):
            raise ValueError(f"allocation: the first step is to reuse ('{self.actions[0]}'), but there is nothing to "
                             "reuse yet; make it 'full'.")

    def check(self, pipe: DiffusionPipeline) -> None:
        """Raise ValueError unless ``pipe`` has the network and the sampler that this plan was calibrated for."""
        network = denoiser_of(pipe)[1]
        for what, mine, its in (('denoiser', self.denoiser, architecture_of(network)),
                                ('sampler', self.scheduler, type(pipe.scheduler).__name__)):
            if mine != its:
                raise ValueError(f'This allocation is for the {what} {mine}, but the pipeline has {its}. Give it the '
                                 f'allocation of its own {what}: slimdiff calibrate.')

    def fits(self, pipe: DiffusionPipeline) -> bool:
        """Whether it is for the network and the sampler of ``pipe``."""
        its = architecture_of(denoiser_of(pipe)[1]), type(pipe.scheduler).__name__
        return (self.denoiser, self.scheduler) == its

    def describe(self) -> str:
        """The actions in order, runs of equals together: ``full x3, prediction, ...``."""
        runs = [(name, len(list(group))) for name, group in groupby(self.actions)]
        return ', '.join(name if count == 1 else f'{name} x{count}' for name, count in runs)

    def save(self, path: str | Path) -> None:
        """Write JSON; the file appears whole or not at all."""
        write_json(Path(path), dict(version=VERSION, kind=KIND, **dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read and check a file of :meth:`save`.

        Raises:
            ValueError: a folder, no JSON, or no such plan; the message names the file.
            OSError: no such file.
        """
        if Path(path).is_dir():
            raise ValueError(f'{path} is a folder: give the allocation.json in it.')
        return cls.from_dict(read_json(path, 'Calibrate again, or give another allocation.', object), str(path))

    @classmethod
    def from_dict(cls, data: Any, path: str = 'allocation') -> Plan:
        if isinstance(data, Mapping) and 'segments' in data:
            raise ValueError(f'{path} is an allocation of widths, of slimdiff search: slimdiff.StepAwareUNet runs it, '
                             'or slimdiff export --allocation.')
        if not isinstance(data, Mapping) or data.get('kind') != KIND:
            raise ValueError(f'{path} is no allocation of slimdiff calibrate.')
        if data.get('version') != VERSION:
            raise ValueError(f'{path}: version {data.get("version")!r} is unknown; this slimdiff reads {VERSION}.')
        try:
            fields = {field.name: data[field.name] for field in dataclasses.fields(cls)}
            if not isinstance(fields['actions'], Sequence) or isinstance(fields['actions'], str):
                raise ValueError(f'actions must be a list, got {fields["actions"]!r}.')
            return cls(**{**fields, 'actions': tuple(fields['actions'])})
        except KeyError as error:
            raise ValueError(f'{path}: lacks {error}.') from None
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None

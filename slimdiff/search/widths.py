"""The one place where the search touches a supernet: its widths, and what an action does with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from slimdiff.models.unets.unet import UNetOutput
from slimdiff.sampling import Action, Reuse, Run


def widths_of(model: Any) -> tuple[float, ...]:
    """The widths that the model's network was built with, rising.

    Raises:
        ValueError: a network that is not slimmable.
    """
    widths = getattr(model.unet, 'widths', None)
    if not widths:
        raise ValueError(f'{type(model.unet).__name__} runs at one width only: there is nothing to search. Train a '
                         'SlimmableUNet (model.unet.type), and search with its config.')
    return tuple(sorted(float(width) for width in widths))


def check_widths(model: Any, wanted: Iterable[float]) -> None:
    """Raise ValueError if the model's network lacks one of the widths."""
    available = widths_of(model)
    missing = [width for width in wanted if width not in available]
    if missing:
        raise ValueError(f'The search asks for width {", ".join(f"{w:g}" for w in missing)}, but the network was '
                         f'trained at {", ".join(f"{w:g}" for w in available)}. Set search.space.widths to some of '
                         'these, or train with more (model.unet.widths).')


def at_width(model: Any, width: float) -> AbstractContextManager:
    """Within this context, every call of the model's network runs at ``width``."""
    return model.unet.at(width)


class Memory(NamedTuple):
    """What a call leaves to a reuse: the width last run, the network's output and its deep features."""

    width: float
    prediction: Tensor
    features: Tensor | None


class ActionNetwork(nn.Module):
    """A supernet that does what :attr:`action` says; called as a UNet.

    The state of a sampling, :attr:`memory`, is put in and taken out by the caller, so that many samplings can take
    turns. Networks are the dense ones of ``extract``, made once a width, as in
    :class:`~slimdiff.models.unets.step_aware.StepAwareUNet`; a network without ``extract`` runs inside ``at``.

    Args:
        supernet: has ``at(width)``, and better ``extract(width)``.
        keeps_features: also keep deep features, for ``Reuse('features')``.
    """

    def __init__(self, supernet: nn.Module, keeps_features: bool = False) -> None:
        super().__init__()
        self.supernet = supernet
        self.keeps_features = keeps_features
        self.action: Action | None = None
        self.memory: Memory | None = None
        self._dense: dict[float, nn.Module] = {}

    def dense(self, width: float) -> nn.Module:
        """The network of ``width`` alone."""
        if width not in self._dense:
            self._dense[width] = self.supernet.extract(width).eval().requires_grad_(False)
        return self._dense[width]

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, return_dict: bool = True) -> UNetOutput | tuple[Tensor]:
        args = (sample, timestep, class_labels, encoder_hidden_states)
        if isinstance(self.action, Run):
            self.memory = self._run(self.action.width, args)
        elif self.memory is None:
            raise ValueError(f"The first step is to '{self.action}', but there is nothing to reuse yet.")
        elif self.action == Reuse('features'):
            prediction = self.dense(self.memory.width).shallow(*args, self.memory.features).sample
            self.memory = self.memory._replace(prediction=prediction)
        prediction = self.memory.prediction
        return UNetOutput(sample=prediction) if return_dict else (prediction, )

    def _run(self, width: float, args: tuple) -> Memory:
        if self.keeps_features:
            output, features = self.dense(width).with_features(*args)
            return Memory(width, output.sample, features)
        conditions = {name: value for name, value in zip(('class_labels', 'encoder_hidden_states'), args[2:])
                      if value is not None}
        if hasattr(self.supernet, 'extract'):
            return Memory(width, self.dense(width)(*args[:2], **conditions).sample, None)
        with self.supernet.at(width):
            return Memory(width, self.supernet(*args[:2], **conditions).sample, None)


@contextmanager
def in_place(model: Any, network: ActionNetwork) -> Iterator[None]:
    """Within this context the model's network is ``network``."""
    before = model.unet
    model.unet = network
    try:
        yield
    finally:
        model.unet = before

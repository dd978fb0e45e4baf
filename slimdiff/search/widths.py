"""The one place where the search touches a supernet: its widths, and what an action does with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from slimdiff.models.backbones import protocol
from slimdiff.models.backbones.adapt import Prediction, given
from slimdiff.models.backbones.steps import State, take_step
from slimdiff.sampling import Action


def widths_of(model: Any) -> tuple[float, ...]:
    """The widths that the model's network was built with, rising; 1 alone for one that is not slimmable."""
    return protocol.widths_of(model.unet)


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
    return protocol.at_width(model.unet, width)


class ActionNetwork(nn.Module):
    """A supernet that does what :attr:`action` says; called as a UNet.

    The state of a sampling, :attr:`state`, is put in and taken out by the caller, so that many samplings can take
    turns. Networks are the dense ones of ``extract``, made once a width, as in
    :class:`~slimdiff.models.backbones.step_aware.StepAwareUNet`, which takes its steps by the same function.

    Args:
        supernet: any network; one that is not slimmable has the width 1.
        keeps_features: also keep deep features, for ``Reuse('features')``.
    """

    def __init__(self, supernet: nn.Module, keeps_features: bool = False) -> None:
        super().__init__()
        self.supernet = supernet
        self.keeps_features = keeps_features
        self.action: Action | None = None
        self.state: State | None = None
        self._dense: dict[float, nn.Module] = {}

    def dense(self, width: float) -> nn.Module:
        """The network of ``width`` alone."""
        if width not in self._dense:
            network = protocol.network_of(self.supernet, width)
            # That of a network of one width is the model's own: it stays as it is.
            self._dense[width] = network if network is self.supernet else network.eval().requires_grad_(False)
        return self._dense[width]

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, return_dict: bool = True) -> Prediction | tuple[Tensor]:
        self.state = take_step(lambda width, name: getattr(self.dense(width), name), self.action, self.state, sample,
                               timestep, given(class_labels, encoder_hidden_states), self.keeps_features)
        prediction = self.state.prediction
        return Prediction(sample=prediction) if return_dict else (prediction, )


@contextmanager
def in_place(model: Any, network: nn.Module) -> Iterator[None]:
    """Within this context the model's network is ``network``."""
    before = model.unet
    model.unet = network
    try:
        yield
    finally:
        model.unet = before

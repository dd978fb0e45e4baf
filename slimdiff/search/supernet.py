"""The one place where the search touches a supernet: what it can run, and what an action does with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from slimdiff.models.backbones.adapt import Prediction, given
from slimdiff.models.backbones.protocol import input_dtype, network_of, runs_of
from slimdiff.models.backbones.steps import State, take_step
from slimdiff.sampling import Action, Run


def check_runs(model: Any, wanted: Iterable[Run]) -> None:
    """Raise ValueError if the model's network lacks one of the widths or depths."""
    available = runs_of(model.unet)
    missing = sorted(run for run in wanted if run not in available)
    if missing:
        raise ValueError(f'The search asks for width {", ".join(run.size for run in missing)}, but the network was '
                         f'trained at {", ".join(run.size for run in available)}. Set search.space.widths (and depths) '
                         'to some of these, or train with more (model.unet.widths).')


class ActionNetwork(nn.Module):
    """A supernet that does what :attr:`action` says; called as a UNet.

    The state of a sampling, :attr:`state`, is put in and taken out by the caller, so that many samplings can take
    turns. Networks are the dense ones of ``extract``, made once a run, as in
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
        self._dense: dict[Run, nn.Module] = {}

    def dense(self, run: Run) -> nn.Module:
        """The network of a run alone."""
        if run not in self._dense:
            network = network_of(self.supernet, run)
            # That of a network of one width is the model's own: it stays as it is.
            self._dense[run] = network if network is self.supernet else network.eval().requires_grad_(False)
        return self._dense[run]

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, return_dict: bool = True) -> Prediction | tuple[Tensor]:
        # Samplers work in float32, whatever the precision of the network is; pipelines cast as it is done here.
        sample = sample.to(input_dtype(self.supernet))
        if encoder_hidden_states is not None:
            encoder_hidden_states = encoder_hidden_states.to(next(self.supernet.parameters()).dtype)
        self.state = take_step(lambda run, name: getattr(self.dense(run), name), self.action, self.state, sample,
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

"""What slimdiff asks of a network, and what a network may offer beyond that.

Algorithms, search, cost, export and step-aware networks ask the functions of this file what a network can do; none of
them asks for its class. A backbone is any ``nn.Module`` that maps (x_t, t, conditions) to a prediction; how it is
called is a matter of :mod:`slimdiff.models.backbones.adapt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from slimdiff.sampling.actions import Run
from slimdiff.spelling import did_you_mean


class Backbone(Protocol):
    """What every network has, or gets from its wrapper: a ``config`` with ``sample_size`` and ``in_channels``.

    Optional fields of ``config``: ``num_classes`` (the label ``num_classes`` is the null class) or diffusers'
    ``num_class_embeds`` (rows, the null class included), ``context_channels`` or diffusers' ``cross_attention_dim``
    (width of ``encoder_hidden_states``).
    """

    config: Mapping[str, Any]

    def forward(self, sample: Tensor, timestep: Tensor) -> Any:
        """(N, C, H, W) and (N,) to a tensor, a tuple that begins with one, or an output with ``.sample``."""


class Slimmable(Protocol):
    """Several widths with one set of weights: what the sandwich rule, the search and step-aware networks want."""

    #: shares of the channels, 1.0 among them
    widths: tuple[float, ...]

    def at(self, width: float) -> AbstractContextManager:
        """Within this context every call runs at ``width``."""

    def extract(self, width: float) -> nn.Module:
        """The network of ``width`` alone, with copies of its weights."""


class SlimmableDepth(Slimmable, Protocol):
    """Several depths besides: what runs at a depth of 0.5 is half of the blocks."""

    #: shares of the blocks, 1.0 among them
    depths: tuple[float, ...]

    def at(self, width: float, depth: float = 1.0) -> AbstractContextManager:
        """Within this context every call runs at ``width`` and ``depth``."""

    def extract(self, width: float, depth: float = 1.0) -> nn.Module:
        """The network of ``width`` and ``depth`` alone, with copies of its weights."""


class SlimmableStages(Slimmable, Protocol):
    """Feature maps at every width: what distillation at taps wants of a slimmable network."""

    def network_at(self, width: float, depth: float = 1.0) -> nn.Module:
        """The module whose submodules run at ``width`` (and ``depth``, where there are several)."""

    def stage_channels(self) -> Mapping[str, Any]:
        """Name of a stage -> its :class:`~slimdiff.models.layers.channels.Channels`."""


class Orderable(Slimmable, Protocol):
    """A start from a dense network: what matters most comes first, so that a slice keeps it."""

    def order_by_importance(self) -> int:
        """Order channels and blocks in place, and return how many moved; the network computes what it did."""


class ReusableFeatures(Protocol):
    """Deep features that a later step may take for its own: what ``Reuse('features')`` wants (DeepCache)."""

    def with_features(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None,
                      encoder_hidden_states: Tensor | None = None) -> tuple[Any, Tensor]:
        """As ``forward``, and the deep features."""

    def shallow(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None,
                encoder_hidden_states: Tensor | None, features: Tensor) -> Any:
        """The shallow part around deep features."""


class StepAllocated(Protocol):
    """A network that is several, one for each step."""

    allocation: Any

    def network(self, run: Run | float) -> nn.Module:
        """The network of a run."""


#: fields of a config that say how many classes a network knows: ours, and those of diffusers
CLASS_FIELDS = ('num_classes', 'num_class_embeds', 'num_embeds_ada_norm')
#: the members of each protocol that are asked for
MEMBERS = {Slimmable: ('widths', 'at', 'extract'),
           SlimmableDepth: ('widths', 'depths', 'at', 'extract'),
           Orderable: ('order_by_importance', ),
           SlimmableStages: ('widths', 'at', 'extract', 'network_at', 'stage_channels'),
           ReusableFeatures: ('with_features', 'shallow'),
           StepAllocated: ('allocation', 'network')}


# ---- what it can do -----------------------------------------------------------------------------------------------


def bare(network: nn.Module) -> nn.Module:
    """The network inside the wrappers of slimdiff: the one whose modules have the names that its author gave them."""
    return getattr(network, 'bare', network)


def name_of(network: nn.Module) -> str:
    """The class of the network inside the wrappers."""
    return type(bare(network)).__name__


def offers(network: nn.Module, protocol: type) -> bool:
    """Whether ``network`` has all that ``protocol`` lists."""
    return not lacking(network, protocol)


def lacking(network: nn.Module, protocol: type) -> list[str]:
    """The members of ``protocol`` that ``network`` does not have."""
    return [name for name in MEMBERS[protocol] if not hasattr(network, name)]


def require(network: nn.Module, protocol: type, purpose: str, instead: str) -> None:
    """Raise ValueError unless ``network`` offers ``protocol``.

    Args:
        purpose: what it is needed for, as the beginning of a sentence.
        instead: what to do other than adding the members.
    """
    missing = lacking(network, protocol)
    if missing:
        raise ValueError(f'{purpose} needs a network with {", ".join(MEMBERS[protocol])} '
                         f'(slimdiff.models.backbones.protocol.{protocol.__name__}); {name_of(network)} lacks '
                         f'{", ".join(missing)}. Add {"it" if len(missing) == 1 else "them"}, or {instead}.')


# ---- its input and conditions -------------------------------------------------------------------------------------


def input_shape(network: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) of the input that ``network`` was made for.

    Raises:
        ValueError: its config does not say it.
    """
    channels, size = (getattr(network.config, key, None) for key in ('in_channels', 'sample_size'))
    size = (size, size) if isinstance(size, int) else tuple(size or ())
    if not isinstance(channels, int) or len(size) != 2:
        raise ValueError(f'{name_of(network)} does not say what input it takes: its config needs in_channels and '
                         f"sample_size, got in_channels={channels} and sample_size="
                         f"{getattr(network.config, 'sample_size', None)}. Set them in the config's unet=dict(...).")
    return channels, *size


def predicts_variance(network: nn.Module) -> bool:
    """Whether ``network`` gives twice as many channels as it takes: the prediction, then the posterior's variance."""
    channels, outputs = (getattr(network.config, key, None) for key in ('in_channels', 'out_channels'))
    return outputs is not None and outputs == 2 * (channels or 0)


def output_channels(network: nn.Module) -> int | None:
    """The channels of the prediction; None if the config does not say. A variance is left out by the wrapper."""
    return network.config.in_channels if predicts_variance(network) else getattr(network.config, 'out_channels', None)


def expected_context(network: nn.Module) -> int | None:
    """Width of the ``encoder_hidden_states`` that ``network`` needs; None if it takes none (or has a class token)."""
    config = network.config
    if getattr(config, 'class_token', False):
        return None
    width = next((value for key in ('context_channels', 'encoder_hid_dim', 'caption_channels', 'joint_attention_dim',
                                       'cap_feat_dim', 'cross_attention_dim')
                  if (value := getattr(config, key, None))), None)
    return width if isinstance(width, int) or width is None else width[0]


def context_shape(network: nn.Module, length: int = 1) -> tuple[int, int] | None:
    """(S, D) of a context of ``length`` rows, or of as many as ``network`` needs; None if it takes none."""
    width = expected_context(network)
    # One row is the pooled vector of the text, where a network takes one.
    least = 2 if getattr(network.config, 'pooled_projection_dim', None) else 1
    return None if width is None else (max(length, least), width)


def class_rows(network: nn.Module) -> int:
    """Labels that ``network`` has a row for, the null class included; 0 if it takes none."""
    config = network.config
    # diffusers' DiT (norm_type 'ada_norm_zero') adds a row for the null class, too.
    classes = getattr(config, 'num_classes', None) or (
        getattr(config, 'norm_type', None) == 'ada_norm_zero' and getattr(config, 'num_embeds_ada_norm', None))
    return classes + 1 if classes else getattr(config, 'num_class_embeds', None) or 0


def num_classes(network: nn.Module) -> int | None:
    """The classes of ``network`` without the null class, which is its last row; None if it takes none."""
    return class_rows(network) - 1 if class_rows(network) else None


def input_dtype(network: nn.Module) -> torch.dtype:
    """The precision in which ``network`` wants x_t: that of its weights, or float32 where it is preconditioned."""
    if getattr(network, 'precondition', None) is not None:
        return torch.float32
    return getattr(network, 'dtype', None) or next(network.parameters()).dtype


def example_inputs(network: nn.Module, batch: int = 1, context_length: int = 1, timesteps: int = 1000,
                   random: bool = False) -> dict[str, Tensor]:
    """Inputs for ``network``, by the names of :func:`~slimdiff.models.backbones.adapt.predict`: zeros, or random ones.

    Args:
        context_length: tokens of the context, where it takes one.
        timesteps: random ones lie below.
        random: a function of ``batch``.
    """
    generator = torch.Generator().manual_seed(batch)

    def floats(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) if random else torch.zeros(shape)

    def integers(limit: int) -> Tensor:
        return torch.randint(limit, (batch, ), generator=generator) if random else torch.zeros(batch, dtype=torch.long)

    inputs = {'sample': floats(batch, *input_shape(network)), 'timestep': integers(timesteps)}
    if rows := class_rows(network):
        inputs['class_labels'] = integers(rows)
    if shape := context_shape(network, context_length):
        inputs['encoder_hidden_states'] = floats(batch, *shape)
    return inputs


# ---- its widths and depths ----------------------------------------------------------------------------------------


def runs_of(network: nn.Module) -> tuple[Run, ...]:
    """Every width and depth that ``network`` has, rising; one that is not slimmable has one run, of width 1."""
    widths = network.widths if offers(network, Slimmable) else (1.0, )
    depths = network.depths if offers(network, SlimmableDepth) else (1.0, )
    return tuple(sorted(Run(width, depth) for width in widths for depth in depths))


def check_run(network: nn.Module, run: Run | float) -> Run:
    """Raise ValueError unless ``network`` was made for ``run``, or a width; returns the run."""
    run, available = Run.of(run), runs_of(network)
    if run not in available:
        raise ValueError(f'width: got {run.size}; this network has {", ".join(own.size for own in available)}.')
    return run


def at_run(network: nn.Module, run: Run | float) -> AbstractContextManager:
    """Within this context every call of ``network`` is this run, one of its own."""
    run = check_run(network, run)
    return network.at(*axes_of(run)) if offers(network, Slimmable) else nullcontext()


def network_of(network: nn.Module, run: Run | float) -> nn.Module:
    """The network of a run alone: a copy; of a network of one width the network itself."""
    run = check_run(network, run)
    return network.extract(*axes_of(run)) if offers(network, Slimmable) else network


def axes_of(run: Run) -> tuple[float, ...]:
    """(width, ), or (width, depth) below full depth: networks of one depth take a width alone."""
    return (run.width, ) if run.depth == 1 else (run.width, run.depth)


# ---- its stages ---------------------------------------------------------------------------------------------------


def check_stages(network: nn.Module, paths: list[str]) -> Mapping[str, Any]:
    """The channels of the stages of a slimmable network that is distilled at ``paths``, by name; {} for no paths.

    Raises:
        ValueError: a network that does not say them, or a tap inside a stage.
    """
    if not paths:
        return {}
    require(network, SlimmableStages, 'To distil several widths at a tap', "distil at the tap 'output' alone")
    maps = network.stage_channels()
    inside = [path for path in paths if path not in maps]
    if inside:
        raise ValueError(f"The tap '{inside[0]}' can't be compared at several widths."
                         f'{did_you_mean(inside[0], maps)} Taps: output, {", ".join(maps)}.')
    return maps

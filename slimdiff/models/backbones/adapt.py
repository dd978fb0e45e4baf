"""Any network behind one call: its outputs, the names of its arguments, and a config where it has none."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from slimdiff.arguments import declared_arguments, plain
from slimdiff.models.backbones.block_stack import BlockStack
from slimdiff.models.backbones.classes import NAMES, find_class, make
from slimdiff.models.backbones.families import family_of
from slimdiff.models.backbones.protocol import at_run, predicts_variance

#: fields of a config that a network without one may have as attributes
FIELDS = ('sample_size', 'in_channels', 'out_channels', 'num_classes', 'num_class_embeds', 'context_channels', 'depths')

#: types of arguments that a config holds
PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


@dataclasses.dataclass
class Prediction(BaseOutput):
    """What diffusers' ``UNet2DOutput`` is; to import that one takes seconds where transformers is installed.

    Args:
        sample: (N, out_channels, H, W).
    """
    sample: Tensor


@functools.cache
def condition_names(forward: Any) -> dict[str, str | None]:
    """Our name of a condition -> that of an argument of ``forward``, a function; None if it takes no such."""
    parameters = inspect.signature(forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {ours: next((name for name in theirs if name in parameters), ours if anything else None)
            for ours, theirs in NAMES.items()}


@functools.cache
def wants_timestep_by_name(forward: Any) -> bool:
    """Whether ``forward`` has its ``timestep`` elsewhere than second, as some transformers of diffusers have it."""
    names = [name for name in inspect.signature(forward).parameters if name != 'self']
    return 'timestep' in names and names.index('timestep') != 1


def call_arguments(network: nn.Module, sample: Tensor, timestep: Tensor,
                   conditions: Mapping[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``network`` is called with, for (N,) timesteps and conditions by its own names."""
    family = family_of(network)
    if family is not None:
        return family.inputs(network, sample, timestep, conditions)
    if wants_timestep_by_name(type(network).forward):
        return (sample, ), {'timestep': timestep, **conditions}
    return (sample, timestep), dict(conditions)


def call(network: nn.Module, sample: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Any:
    """The output of a network, with (N,) timesteps and conditions by its own names."""
    args, kwargs = call_arguments(network, sample, timestep, conditions)
    output, family = network(*args, **kwargs), family_of(network)
    return output if family is None else family.output(as_tensor(output, type(network).__name__), sample)


def takes(network: nn.Module, condition: str) -> bool:
    """Whether ``network``'s forward has an argument for this condition, whatever its name."""
    return condition_names(type(network).forward)[condition] is not None


def has_our_names(network: nn.Module) -> bool:
    """Whether ``network`` is called as diffusers' UNets are: ``(sample, timestep, ...)``, conditions by their names.

    diffusers' transformers, which call the sample ``hidden_states``, want a timestep for each sample.
    """
    forward = type(network).forward
    first = next(name for name in inspect.signature(forward).parameters if name != 'self')
    return first != 'hidden_states' and not wants_timestep_by_name(forward) and all(
        theirs in (None, ours) for ours, theirs in condition_names(forward).items())


def given(class_labels: Tensor | None, encoder_hidden_states: Tensor | None) -> dict[str, Tensor]:
    """Those conditions that there are, as arguments: some networks take only what they were made for."""
    conditions = {'class_labels': class_labels, 'encoder_hidden_states': encoder_hidden_states}
    return {name: value for name, value in conditions.items() if value is not None}


def named(network: nn.Module, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Conditions under the names that ``network`` has for them.

    Raises:
        ValueError: a condition that it has no argument for.
    """
    names = condition_names(type(network).forward)
    for name in conditions:
        if names[name] is None:
            raise ValueError(f'{type(network).__name__}.forward takes no {name}: give it an argument of one of the '
                             f'names {", ".join(NAMES[name])}.')
    return {names[name]: value for name, value in conditions.items()}


def predict(network: nn.Module, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None = None,
            encoder_hidden_states: Tensor | None = None) -> Tensor:
    """Call a backbone, whatever its output is: its prediction (N, C, H, W).

    Args:
        sample: (N, C, H, W).
        timestep: a scalar or (N,).
        class_labels, encoder_hidden_states: those that there are.
    """
    return as_tensor(network(sample, timestep, **given(class_labels, encoder_hidden_states)), type(network).__name__)


def as_tensor(output: Any, name: str) -> Tensor:
    """The tensor in the output of a module: itself, the first of a tuple, or diffusers' ``.sample``."""
    value = output[0] if isinstance(output, tuple) else output
    value = getattr(value, 'sample', value)
    if not isinstance(value, Tensor):
        raise ValueError(f"'{name}' gives {type(output).__name__}, not a tensor: return a tensor, a tuple that begins "
                         'with one, or an output with .sample.')
    return value


class AdaptedBackbone(ModelMixin, ConfigMixin):
    """A network of any kind as a diffusers model: with a ``config``, saved and opened as a folder, returns ``.sample``.

    Its ``config`` is that of the network (its arguments, and its attributes ``sample_size``, ``in_channels``, ... if
    it has no config of its own), and ``network_class``, the name of its class. Whatever else it is asked for is the
    network's: stages, widths, ``at``.

    Args:
        network: any ``nn.Module`` that takes (x_t, t, conditions).
        arguments: those that it was made with; by default those in its config, or its attributes of their names.
        own: more of the config.
    """

    _supports_gradient_checkpointing = True

    def __init__(self, network: nn.Module, arguments: Mapping[str, Any] | None = None, **own: Any) -> None:
        super().__init__()
        self.network = network
        fields = described(network, arguments) | own
        #: arguments that nothing tells: see save_config
        self._unsaid = [name for name in parameters_of(network) if name not in fields] if arguments is None else []
        self._stack = BlockStack.of(network, fields.get('depths'))
        self.register_to_config(**fields, network_class=type(network).__name__)

    @property
    def bare(self) -> nn.Module:
        """The network inside."""
        return getattr(self.network, 'bare', self.network)

    def forward(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None = None,
                encoder_hidden_states: Tensor | None = None, return_dict: bool = True,
                width: float | None = None) -> Prediction | tuple[Tensor]:
        """Predict, whatever the network's own arguments and outputs are; at ``width``, if it has several."""
        if width is not None:
            with at_run(self, width):
                return self(sample, timestep, class_labels, encoder_hidden_states, return_dict)
        timestep = each(timestep, sample)
        conditions = named(self.network, given(class_labels, encoder_hidden_states))
        output = self.around(lambda x: self._mean(call(self.network, x, timestep, conditions),
                                                  self.config.network_class), sample, timestep)
        return Prediction(sample=output) if return_dict else (output, )

    def _mean(self, output: Any, name: str) -> Tensor:
        """The prediction alone, also of a network that learned the variance (Nichol and Dhariwal 2021)."""
        value = as_tensor(output, name)
        return value[:, :self.config.in_channels] if predicts_variance(self) else value

    def around(self, network: Callable[[Tensor], Tensor], sample: Tensor, timestep: Tensor) -> Tensor:
        """``network(sample)``; a subclass does more around it."""
        return network(sample)

    def rewrapped(self, network: nn.Module) -> AdaptedBackbone:
        """The same wrapper around another network of this kind: one of another width."""
        return type(self)(network, **self._own_size())

    def _own_size(self) -> dict[str, Any]:
        """The size that the network itself may not say."""
        return {'sample_size': self.config.sample_size} if 'sample_size' in self.config else {}

    # ---- what the network offers, the wrapper offers: see __getattr__ -------------------------------------------

    def _extract(self, *run: float) -> AdaptedBackbone:
        return self.rewrapped((self._stack or self.network).extract(*run)).train(self.training)

    def _with_features(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None = None,
                       encoder_hidden_states: Tensor | None = None) -> tuple[Prediction, Tensor]:
        timestep, features = each(timestep, sample), []

        def run(x: Tensor) -> Tensor:
            if self._stack is None:
                output, deep = self.network.with_features(x, timestep, class_labels, encoder_hidden_states)
            else:
                output, deep = self._stack.with_features(
                    self._call_on(x, timestep, class_labels, encoder_hidden_states))
            features.append(deep)
            return self._mean(output, 'with_features')

        return Prediction(sample=self.around(run, sample, timestep)), features[0]

    def _shallow(self, sample: Tensor, timestep: Tensor | float | int, class_labels: Tensor | None,
                 encoder_hidden_states: Tensor | None, features: Tensor) -> Prediction:
        timestep = each(timestep, sample)

        def run(x: Tensor) -> Tensor:
            if self._stack is None:
                output = self.network.shallow(x, timestep, class_labels, encoder_hidden_states, features)
            else:
                output = self._stack.shallow(self._call_on(x, timestep, class_labels, encoder_hidden_states), features)
            return self._mean(output, 'shallow')

        return Prediction(sample=self.around(run, sample, timestep))

    def _call_on(self, x: Tensor, timestep: Tensor, class_labels: Tensor | None,
                 encoder_hidden_states: Tensor | None) -> Callable[[], Any]:
        conditions = named(self.network, given(class_labels, encoder_hidden_states))
        return lambda: call(self.network, x, timestep, conditions)

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get('_modules') or {}
        if name in modules:
            return modules[name]
        if name.startswith('_') or 'network' not in modules:
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}'")
        stack = self.__dict__.get('_stack')
        found = getattr(modules['network'] if stack is None or name not in stack.offered else stack, name)
        return getattr(self, f'_{name}') if name in ('extract', 'with_features', 'shallow') else found

    # ---- files ------------------------------------------------------------------------------------------------

    def save_config(self, *args: Any, **kwargs: Any) -> None:
        """As of diffusers.

        Raises:
            ValueError: a network that came as an object and doesn't say what it was made with.
        """
        if self._unsaid:
            name = self.config.network_class
            raise ValueError(f'Saved, this {name} would come back with the defaults of {", ".join(self._unsaid)}: it '
                             f"was given as an object. Build it from a config, dict(type='{name}', ...), or keep its "
                             'arguments as attributes of the same names.')
        super().save_config(*args, **kwargs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **kwargs: Any) -> AdaptedBackbone:
        """The wrapper around a network of the saved config, with random weights."""
        said = {key: value for key, value in config.items() if not key.startswith('_') and key != 'network_class'}
        own = {key: said.pop(key) for key in cls.own_keys}
        network = find_class(config['network_class'])
        names, takes_others = declared_arguments(network)
        arguments = {key: value for key, value in said.items() if takes_others or key in names}
        family = family_of(network)
        if family is not None:
            arguments['in_channels'] *= family.channels_per_map
        model = cls(make(network, arguments), said, **own)
        # What others have left in the config, such as the record of what the network computes, stays there.
        model.register_to_config(**{key: value for key, value in config.items() if key.startswith('_')})
        return model

    #: arguments of the wrapper that are keys of its config
    own_keys: tuple[str, ...] = ()


def each(timestep: Tensor | float | int, sample: Tensor) -> Tensor:
    """The timestep (N,) of each sample."""
    return torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])


def described(network: nn.Module, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config of ``network``, or in place of one its arguments and attributes.

    What its class has no argument for, a ``sample_size`` or ``depths``, comes from ``arguments``. Of a network that
    came as an object the arguments are not known (None): attributes of their names stand for them.
    """
    own = getattr(network, 'config', None)
    if isinstance(own, Mapping):
        found = {key: value for key, value in own.items() if not key.startswith('_')}
        family = family_of(network)
        if family is not None:
            found['in_channels'] //= family.channels_per_map
        return {key: value for key, value in (arguments or {}).items() if key in FIELDS} | found
    fields = {key: value for key in FIELDS
              if isinstance(value := getattr(network, key, getattr(own, key, None)), (int, tuple, list))}
    parameters = parameters_of(network)
    if arguments is None:
        return fields | {name: plain(value) for name in parameters
                         if isinstance(value := getattr(network, name, network), PLAIN)}
    defaults = {name: plain(p.default) for name, p in parameters.items() if isinstance(p.default, PLAIN)}
    # What was given counts more than an attribute of the name, which may be anything.
    return ({name: None for name, value in defaults.items() if value is None} | fields
            | {name: value for name, value in defaults.items() if value is not None} | plain(dict(arguments)))


def parameters_of(network: nn.Module) -> dict[str, inspect.Parameter]:
    """Those of its class's initialiser that have a name."""
    parameters = list(inspect.signature(type(network).__init__).parameters.values())[1:]
    return {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


# The path that exported folders name; it will not move.
AdaptedBackbone.__module__ = 'slimdiff'

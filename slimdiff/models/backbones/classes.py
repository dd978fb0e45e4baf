"""The classes of networks: found by name, and asked whether they are called with what slimdiff gives them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from slimdiff.arguments import plain
from slimdiff.models.backbones.families import family_of
from slimdiff.registry import MODELS, RegistryError
from slimdiff.spelling import did_you_mean

#: what a condition may be called in the signature of a network's ``forward``
NAMES = {'class_labels': ('class_labels', 'labels', 'class_label', 'y'),
         'encoder_hidden_states': ('encoder_hidden_states', 'context')}


def find_class(name: str) -> type[nn.Module]:
    """The network class of this name, of the registry, slimdiff or diffusers. Nothing is imported for a name of a file.

    Raises:
        RegistryError: there is none.
    """
    import diffusers

    import slimdiff
    MODELS.import_from_location()
    found = MODELS.get(name) if isinstance(name, str) else None  # which imports nothing that a file names
    for library in (slimdiff, diffusers):
        if found is None and isinstance(name, str) and name.isidentifier():
            found = getattr(library, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise RegistryError(f"There is no network class '{name}' in slimdiff's registry or in diffusers."
                            f'{did_you_mean(str(name), MODELS.module_dict)} One of your own: register it '
                            '(@MODELS.register_module()) and import its module first (custom_imports of the config).')
    check_forward(found)
    if found.__name__ not in MODELS.module_dict:  # configs, and folders of this network, may name it from now on
        MODELS.register_module(name=found.__name__, module=found)
    return found


#: inputs of diffusers' networks that slimdiff gives to the families it knows alone; most have a default of no use
UNSERVED = ('pooled_projections', 'img_ids', 'txt_ids')


def check_forward(network: type[nn.Module]) -> None:
    """Raise RegistryError for a class whose ``forward`` has no (x_t, t), neither a ``timestep`` nor a second argument
    without a default, or that needs more than these and conditions."""
    if family_of(network) is not None:
        return
    parameters = [p for p in inspect.signature(network.forward).parameters.values() if p.name != 'self']
    named = any(p.name == 'timestep' for p in parameters[1:])
    if not named and (len(parameters) < 2 or parameters[1].default is not inspect.Parameter.empty):
        raise RegistryError(f'{network.__name__} is not a network that denoises: the second argument of its forward is '
                            'no timestep. A backbone has forward(sample, timestep, ...).')
    conditions = {name for names in NAMES.values() for name in names}
    needs = [p.name for i, p in enumerate(parameters) if p.name in UNSERVED or (
        i > 1 and p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and p.name != 'timestep' and p.name not in conditions)]
    if needs:
        raise RegistryError(f'{network.__name__}.forward also needs {", ".join(needs)}, which slimdiff does not give. '
                            'A network is called with a sample, timesteps, and labels or encoder_hidden_states. Put a '
                            'module around it that makes the rest (docs: bring_your_backbone.md).')


def make(network: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    """A network of a class with these arguments."""
    return network.from_config(dict(arguments)) if hasattr(network, 'from_config') else network(**plain(arguments))

"""One loader of networks, by the name of their class: from our registry, slimdiff or diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from slimdiff.arguments import accepted_arguments, check_arguments, plain
from slimdiff.checkpoint import read_json
from slimdiff.checkpoint.folders import from_pretrained
from slimdiff.models.backbones.adapt import AdaptedBackbone, has_our_names, takes
from slimdiff.models.backbones.classes import find_class
from slimdiff.models.backbones.preconditioned import PreconditionedBackbone
from slimdiff.models.backbones.protocol import (
    CLASS_FIELDS,
    StepAllocated,
    bare,
    class_rows,
    input_shape,
    offers,
    predicts_variance,
)
from slimdiff.registry import building

#: arguments of a network that its wrapper takes where the network's class has none of the name
OF_THE_WRAPPER = ('sample_size', 'depths')


def build_backbone(config: Mapping[str, Any] | nn.Module, num_classes: int | None = None, class_dropout: float = 0.0,
                   preconditioning: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network of a model.

    Classes are filled in where its constructor has an argument for them: ``num_classes``, or diffusers'
    ``num_class_embeds`` (the null class included). A network without a ``config`` gets one from its arguments, and
    the preconditioning is a wrapper.

    Args:
        config: ``dict(type=..., ...)``.
        num_classes, class_dropout: of the model.
        preconditioning: see :class:`~slimdiff.models.backbones.preconditioned.PreconditionedBackbone`; None for none.

    Raises:
        ValueError: no such class; a network that does not say its input, or has no place for the classes.
        RegistryError: an argument that the class does not take.
    """
    network, arguments = config, None
    if not isinstance(config, nn.Module):
        arguments = plain(dict(config))
        arguments.pop('_scope_', None)
        cls = arguments.pop('type', None)
        cls = cls if isinstance(cls, type) else find_class(cls)
        accepted = accepted_arguments(cls)
        for key, rows in (('num_classes', num_classes), ('num_class_embeds', num_classes and num_classes + 1),
                          ('num_embeds_ada_norm', num_classes)):
            if rows is not None and accepted is not None and key in accepted:
                arguments.setdefault(key, rows)
        own = {key: value for key, value in arguments.items()
               if accepted is None or key in accepted or key not in OF_THE_WRAPPER}
        check_arguments(cls, own)
        with building(cls.__name__):
            network = cls(**own)
    check_classes(network, num_classes, class_dropout)
    if preconditioning is not None:
        network = PreconditionedBackbone(network, arguments, preconditioning=preconditioning)
    elif arguments is not None and len(own) < len(arguments):
        network = AdaptedBackbone(network, arguments)
    else:
        network = adapted(network, arguments)
    input_shape(network)  # says what is missing
    return network


def adapted(network: nn.Module, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """``network``, in a wrapper unless it has what a diffusers model has, the same names for its conditions, and gives
    the prediction alone."""
    whole = isinstance(getattr(network, 'config', None), Mapping) and hasattr(network, 'save_pretrained')
    ours = bare(network) is not network or offers(network, StepAllocated)
    plain = ours or (whole and has_our_names(network) and not predicts_variance(network))
    return network if plain else AdaptedBackbone(network, arguments)


def check_classes(network: nn.Module, num_classes: int | None, class_dropout: float) -> None:
    """Raise ValueError unless the classes of a model are those of its network."""
    name = type(network).__name__
    own = getattr(getattr(network, 'config', network), 'num_classes', None)
    if own not in (None, num_classes):
        raise ValueError(f'unet.num_classes={own}, but model.num_classes={num_classes}: its classes would not be '
                         'learned. Set model.num_classes and leave that of the UNet out.')
    if num_classes is None:
        return
    if not takes(network, 'class_labels'):
        raise ValueError(f'model.num_classes={num_classes}, but {name}.forward takes no class: give it an argument '
                         f'class_labels (or labels, y), (N,) integers of which {num_classes} is the null class.')
    says = any(hasattr(getattr(network, 'config', None), key) for key in CLASS_FIELDS)
    rows = class_rows(network) if says else num_classes + 1
    if rows < num_classes + (class_dropout > 0):
        raise ValueError(f'model.num_classes={num_classes}{" and the null class" if class_dropout else ""}, but {name} '
                         f'has rows for {rows} labels. Set num_class_embeds={num_classes + 1} in unet=dict(...).')


# ---- folders ------------------------------------------------------------------------------------------------------


def network_folder(folder: Path, whose: str = 'network') -> Path:
    """The folder that holds a network's config.json: a pipeline's ``unet/`` or ``transformer/``, or ``folder`` itself.

    Raises:
        ValueError: neither does.
    """
    source = next((folder / part for part in ('unet', 'transformer') if (folder / part).is_dir()), folder)
    if not (source / 'config.json').is_file():
        advice = f' Give {folder / "pipeline"}.' if (folder / 'pipeline').is_dir() else ''  # the folder of slim
        raise ValueError(f"The {whose}'s folder {folder} holds neither unet/config.json or transformer/config.json (a "
                         f'pipeline) nor config.json (a network): it was not written by save_pretrained.{advice}')
    return source


def load_folder(folder: Path, whose: str = 'network') -> nn.Module:
    """The network of a folder of ``save_pretrained``, strictly.

    Args:
        folder: holds config.json, or a pipeline's ``unet/`` that does.
        whose: for messages.

    Raises:
        ValueError: no config.json, a class that is not there, a file that can't be read, or weights that are missing,
            left over or of another shape.
    """
    folder = network_folder(folder, whose)
    cls = find_class(read_json(folder / 'config.json', f'Save the {whose} again.').get('_class_name'))
    if not hasattr(cls, 'from_pretrained'):
        raise ValueError(f'The {whose} in {folder} is a {cls.__name__}, which has no from_pretrained.')
    return adapted(from_pretrained(cls, folder, whose))

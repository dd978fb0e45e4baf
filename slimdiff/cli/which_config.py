"""Weights of another model than the config's: which of the shipped configs they are of."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimdiff.checkpoint.files import ArchitectureError

UNET = 'unet.'
#: more names are counted
NAMED = 3


def explain(error: ArchitectureError) -> str:
    """The error's message, with the config to use at its beginning. Takes seconds: it looks through all of them."""
    path = error.path
    stored = stored_config(path)
    names = fitting_configs(error.shapes, stored)
    if names:
        more = f' or {len(names) - NAMED} more' if len(names) > NAMED else ''
        return error.explained(f'Use {" or ".join(names[:NAMED])}{more}, as shipped, which {path.name} fits')
    if path.is_file() and stored:
        return error.explained(f'Use the config that {path.name} was trained with, none of the shipped ones: '
                               f'slimdiff print_config {path} --out its_config.py writes it')
    return str(error)


def stored_config(path: Path) -> dict[str, Any]:
    """The config that a checkpoint was trained with; of a folder, as much as its config.json says; {} if nothing."""
    from slimdiff.checkpoint import load_checkpoint, read_json
    from slimdiff.checkpoint.plain_data import decode
    if path.is_file():
        return decode(load_checkpoint(path)['meta'].get('config') or {})
    with contextlib.suppress(OSError, ValueError):
        unet = read_json(path / 'config.json', '')
        return {'model': {'unet': {'type': unet['_class_name'], **{k: v for k, v in unet.items() if k[0] != '_'}}}}
    return {}


def fitting_configs(shapes: Mapping[str, tuple[int, ...]], stored: Mapping[str, Any]) -> list[str]:
    """Shipped configs whose network has these weights and, where ``stored`` says them, the same settings.

    Of several, those that train it most like ``stored``.

    Args:
        shapes: of all weights by name; a network alone, or a model with its network in ``unet.``.
        stored: the config of the weights, or a part of it.
    """
    from slimdiff.configuration import load_config
    from slimdiff.configuration.load import known_configs
    from slimdiff.registry import plain
    own = {name.removeprefix(UNET): tuple(shape) for name, shape in shapes.items() if name.startswith(UNET)} or shapes
    settings = network_settings(stored['model']) if 'model' in stored else {}
    built: dict[str, bool] = {}
    found = {}
    for name in known_configs():
        with contextlib.suppress(ValueError, KeyError):  # a config that cannot be read is no answer
            config = plain(load_config(name)._cfg_dict)
            theirs = network_settings(config['model'])
            if any(theirs.get(key) != value for key, value in settings.items()) or not same_stem(own, theirs):
                continue
            key = json.dumps(theirs, sort_keys=True, default=str)
            if key not in built:
                built[key] = network_shapes(config['model']) == own
            if built[key]:
                found[name] = config
    wanted = training_of(stored, stored)
    distances = {name: len(wanted ^ training_of(config, stored)) for name, config in found.items()}
    return [name for name, distance in distances.items() if distance == min(distances.values())]


def training_of(config: Mapping[str, Any], stored: Mapping[str, Any]) -> set[str]:
    """The values in a config's model and data set with where they stand; without what ``stored`` does not say."""
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import plain

    def leaves(value: Any, place: str) -> set[str]:
        if isinstance(value, (Mapping, list, tuple)):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            return {leaf for key, part in items for leaf in leaves(part, f'{place}.{key}')}
        return {f'{place}={value}'}

    if 'train_dataloader' in stored:
        dataset = plain(config.get('train_dataloader') or {}).get('dataset')
        return leaves(plain(config['model']), 'model') | leaves(dataset, 'dataset')
    if 'type' not in stored.get('model', {}):  # a network alone
        return set()
    return leaves(serving_config(config['model']), 'model')


def comparable(value: Any) -> Any:
    """With lists in place of tuples."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))


def network_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model's network with their defaults, and what else of the model decides on it.

    {} for a class that no config names, such as that of a folder with a step-aware network, or one of diffusers.
    """
    from slimdiff.registry import MODELS
    network = MODELS.get(model['unet']['type'])
    if network is None:
        return {}
    given = dict(model['unet'])
    if model.get('num_classes') is not None:
        given.setdefault('num_classes', model['num_classes'])
    arguments: dict[str, Any] = {}
    for kind in reversed(network.__mro__):
        parameters = inspect.signature(kind.__init__).parameters.values() if '__init__' in vars(kind) else ()
        arguments |= {p.name: p.default for p in parameters if p.default is not p.empty}
    arguments |= given
    # The model sets it, from sigma_data and its noise schedule.
    arguments.pop('preconditioning', None)
    if 'type' in model:  # not the config.json of a network alone
        arguments['sigma_data'] = model.get('sigma_data', 0.5)
    return comparable(arguments)


def same_stem(shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any]) -> bool:
    """Whether the first layer fits: spares most networks from being built."""
    stem = shapes.get('stem.weight')
    return stem is not None and tuple(stem[:2]) == (settings['stages'][0]['channels'], settings['in_channels'])


def network_shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a model's network, which takes no memory."""
    from slimdiff.models.converters import empty_unet
    return {name: tuple(value.shape) for name, value in empty_unet(model).state_dict().items()}

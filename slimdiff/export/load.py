"""Networks back from an exported folder, into the model of a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slimdiff.checkpoint import read_json
from slimdiff.checkpoint.files import check_finite, check_weights, load_weights
from slimdiff.checkpoint.folders import variant_of
from slimdiff.models import computation
from slimdiff.models.slimmable import SlimmableUNet
from slimdiff.models.unets import StepAwareUNet, UNet, make_step_aware
from slimdiff.models.unets.network_set import check_alike, check_same_timesteps
from slimdiff.registry import building
from slimdiff.sampling.allocation import StepAllocation


def load_trained(model: Any, checkpoint: str | Path, weights: str = 'ema',
                 trust_config: bool = False) -> dict[str, Any]:
    """Give ``model`` what was trained: a ``.pth`` of ``train``, or a folder as :func:`load_network` takes.

    Args:
        weights: of a ``.pth``, ``'ema'`` or ``'online'``; a folder has one set.
        trust_config: use the weights also where they were trained for another computation than the model's.

    Returns:
        The config of the network as the checkpoint has it; empty if it doesn't say.

    Raises:
        CheckpointError: no such file, an unreadable one, or one of another network.
        ValueError: as :func:`load_network`.
    """
    if Path(checkpoint).is_dir():
        return load_network(model, checkpoint, trust_config)
    meta = load_checked_weights(model, checkpoint, weights, trust_config)
    return ((meta.get('config') or {}).get('model') or {}).get('unet') or {}


def load_checked_weights(model: Any, checkpoint: str | Path, weights: str = 'ema',
                         trust_config: bool = False) -> dict[str, Any]:
    """Load a ``.pth`` as :func:`~slimdiff.checkpoint.load_weights`, for the computation that it was trained for.

    Raises:
        CheckpointError: see there.
        ComputationError: the model computes something else.
    """
    meta = load_weights(model, checkpoint, weights)
    computation.check_same(computation.of_checkpoint({'meta': meta}, checkpoint), model, checkpoint, trust_config)
    return meta


def load_network(model: Any, folder: str | Path, trust_config: bool = False) -> dict[str, Any]:
    """Give ``model`` the network of a folder of ``export`` or ``save_pretrained`` (a pipeline's, or the network's own).

    A step-aware network comes with its allocation.

    Returns:
        The config of the folder's network.

    Raises:
        ValueError: no such folder, or a network that is not the config's.
        ComputationError: a network that was trained for another computation than the model's.
    """
    folder = Path(folder)
    source = folder / 'unet' if (folder / 'unet').is_dir() else folder
    if not (source / 'config.json').is_file():
        raise ValueError(f'{folder} holds neither unet/config.json (a pipeline) nor config.json (a UNet): '
                         'give a .pth of train, or a folder of export or save_pretrained.')
    read_json(source / 'config.json', 'Export the network again.')  # diffusers' reader does not say which file it was
    with building(f'The network in {source}', Exception):
        config = StepAwareUNet.load_config(source)
    if config.get('_networks'):  # without the full width: they are not the config's network, but stand for it
        with building(f'The network in {source}', Exception):
            step_aware = StepAwareUNet.from_pretrained(source, low_cpu_mem_usage=False)
        computes = computation.of_folder(folder, source)
        check_finite(step_aware.state_dict(), source)
        check_alike({1.0: model.unet, **{w: step_aware.network(w) for w in step_aware.allocation.widths}})
        computation.check_same(computes, model, folder, trust_config)
        check_same_timesteps(step_aware.allocation, model.num_train_timesteps)
        model.unet = step_aware.to(model.unet.device)
        _tell(model, folder)
        return config
    _tell(model, folder)
    # low_cpu_mem_usage is diffusers' default, and without `accelerate` a warning that means nothing here.
    with building(f'The network in {source}', Exception):
        network = (SlimmableUNet if 'widths' in config else UNet).from_pretrained(
            source, variant=variant_of(source), low_cpu_mem_usage=False)
    computes, weights = computation.of_folder(folder, source), network.state_dict()
    check_weights(weights, model.unet.state_dict(), source)
    computation.check_same(computes, model, folder, trust_config)
    model.unet.load_state_dict(weights)
    if '_allocation' in config:
        make_step_aware(model, StepAllocation.from_dict(config['_allocation']))
    return config


def _tell(model: Any, folder: Path) -> None:
    """Tell the model what the pipeline of a folder says of its training, as ``load_weights`` does of a ``.pth``."""
    file = folder / 'model_index.json'
    if hasattr(model, 'trained_as') and file.is_file():
        try:
            index = json.loads(file.read_text(encoding='utf-8'))
            names = {int(label): str(name) for label, name in (index.get('id2label') or {}).items()}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f'{file} is damaged ({error}). Export the model again.') from None
        meta: dict[str, Any] = {'dataset_meta': {'classes': [name for _, name in sorted(names.items())]}}
        if 'null_class' in index:
            meta['config'] = {'model': {'class_dropout': model.class_dropout if index['null_class'] else 0.0}}
        model.trained_as(meta, str(folder))

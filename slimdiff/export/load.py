"""Networks back from an exported folder, into the model of a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from mmengine.model import BaseModel

from slimdiff.checkpoint import read_json
from slimdiff.checkpoint.files import CheckpointError, load_checkpoint
from slimdiff.checkpoint.folders import from_pretrained, variant_of
from slimdiff.checkpoint.weights import ArchitectureError, check_finite, check_weights, load_weights, put_weights
from slimdiff.export.folder import FIRST_STAGES
from slimdiff.export.pipeline import SlimDiffusionPipeline
from slimdiff.models import computation
from slimdiff.models.backbones import make_step_aware
from slimdiff.models.backbones.load import load_folder, network_folder
from slimdiff.models.backbones.network_set import check_alike, check_same_timesteps
from slimdiff.models.backbones.protocol import StepAllocated, bare, name_of, offers
from slimdiff.models.backbones.step_aware import at_its_timesteps
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS, SCHEDULERS, building
from slimdiff.sampling.actions import FULL


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


def load_model(path: str | Path, weights: str | None = None) -> Any:
    """The model that a ``.pth`` holds, built from the config in it, with its weights, ready to sample.

    Args:
        weights: ``'ema'`` or ``'online'``; by default the averaged ones if there are any.

    Raises:
        CheckpointError: as :func:`~slimdiff.checkpoint.load_weights`; no config in it.
        RegistryError: a class that is not registered here.
    """
    data = load_checkpoint(path)
    config = (data['meta'].get('config') or {}).get('model')
    if not config:
        raise CheckpointError(f'{path} does not hold the config of its model. Export it with the config that it was '
                              'trained with (slimdiff export CONFIG CHECKPOINT FOLDER), and load the folder.')
    with building(f'The model in {path}', Exception):
        model = MODELS.build(serving_config(config), kind=BaseModel)
    put_weights(model, data, path, weights or ('ema' if 'ema' in data or 'published' in data['meta'] else 'online'))
    computation.check_same(computation.of_checkpoint(data, path), model, path)
    return model.eval()


def load_pipeline(folder: str | Path) -> DiffusionPipeline:
    """The pipeline of a folder of ``export`` or of diffusers, its network strictly; around ``unet/`` and ``scheduler/``
    alone, ours, with the first stage that lies beside them.

    Raises:
        ValueError: a folder of something else, or a damaged one; a network of latents without its first stage.
    """
    folder = Path(folder)
    if (folder / 'model_index.json').is_file():
        parts: dict[str, Any] = {}
        if (folder / 'unet').is_dir():
            parts = {'unet': load_folder(folder), 'variant': variant_of(folder / 'unet')}
        try:
            return DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts)
        except Exception as error:  # missing file, damaged file: diffusers and transformers have many classes of them
            raise ValueError(f'The pipeline in {folder} cannot be loaded: {error}') from error
    source, place = network_folder(folder), folder / 'scheduler'
    if not (place / 'scheduler_config.json').is_file():
        raise ValueError(f'{folder} holds a network alone, without the scheduler that it is sampled with '
                         '(scheduler/scheduler_config.json). Give the folder of a pipeline.')
    network, stages = load_folder(folder), {}
    for name, kind in FIRST_STAGES.items():  # beside what convert has written
        if (folder / name).is_dir():
            stages[name] = from_pretrained(kind.find_network_class(), folder / name, 'first stage')
            stages['latent_scale'] = stages[name].config.scaling_factor
    if not stages and computation.of_folder(folder, source).get('first_stage'):
        raise ValueError(f'The network in {folder} works on latents, and their first stage is not there. Export it '
                         'without --unet-only.')
    name = read_json(place / 'scheduler_config.json', 'Save the scheduler again.').get('_class_name')
    scheduler = SCHEDULERS.get(name)
    if scheduler is None:
        raise ValueError(f"{place} holds a scheduler '{name}', which diffusers does not have.")
    with building(f'The scheduler in {place}', TypeError):
        return SlimDiffusionPipeline(network, scheduler.from_pretrained(place), **stages)


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
    source, network = network_folder(folder), load_folder(folder)
    computes = computation.of_folder(folder, source)
    step_aware, config = offers(network, StepAllocated), dict(network.config)
    if step_aware and FULL not in network.allocation.runs:  # they are not the config's network, but stand for it
        check_finite(network.state_dict(), source)
        check_alike({FULL: model.unet, **{run: network.network(run) for run in network.allocation.runs}})
        computation.check_same(computes, model, folder, trust_config)
        check_same_timesteps(network.allocation, model.noise_process)
        model.unet = network.to(model.unet.device)
        at_its_timesteps(model)
        _tell(model, folder)
        return config
    _tell(model, folder)
    full = network.network(1.0) if step_aware else network
    weights = full.state_dict()
    try:
        check_weights(weights, model.unet.state_dict(), source)
    except ArchitectureError:
        found, wanted = type(bare(full)), type(bare(model.unet))
        if issubclass(found, wanted) or issubclass(wanted, found):
            raise
        raise ValueError(f'{folder} holds a network of the class {name_of(full)}, but the config has '
                         f"unet=dict(type='{name_of(model.unet)}', ...), whose weights are others. Use the config "
                         'that it was trained with.') from None
    computation.check_same(computes, model, folder, trust_config)
    model.unet.load_state_dict(weights)
    if step_aware:
        make_step_aware(model, network.allocation)
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

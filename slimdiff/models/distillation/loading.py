"""Find a teacher's network and noise schedule: our checkpoint, a diffusers folder, or a name on the Hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler
from mmengine.model import BaseModel
from torch import Tensor, nn

from slimdiff.checkpoint import find_path, load_checkpoint
from slimdiff.checkpoint.files import check_weights, weights_of
from slimdiff.checkpoint.hub import download, is_hub_id
from slimdiff.functional.prediction import check_prediction_type
from slimdiff.models.backbones.load import load_folder
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS


@dataclasses.dataclass
class LoadedTeacher:
    """A teacher's network, and what is known of its training (None: unknown)."""
    unet: nn.Module
    source: str
    alphas_cumprod: Tensor | None = None
    prediction_type: str | None = None
    classes: Sequence[str] = ()
    null_class: bool = True


def load_teacher(checkpoint: str | Mapping[str, Any], weights: str = 'ema',
                 scheduler: Mapping[str, Any] | None = None, config: str | None = None) -> LoadedTeacher:
    """Load a teacher, strictly.

    Args:
        checkpoint: a ``.pth`` of ours (which holds its config); a folder of ``save_pretrained``, of a pipeline or of
            a UNet alone; or a model's name on the Hugging Face Hub. Folders that came with slimdiff
            (``configs/ldm/...``) are found from any working directory. Or the ``model`` of a config: a network with
            random weights, as dry runs have it.
        weights: 'ema' or 'online', for a ``.pth``.
        scheduler: keys of a diffusers scheduler's config (``beta_schedule``, ``prediction_type``, ...): what a folder
            without a scheduler doesn't say.
        config: the config file of the network; the error for a checkpoint that isn't there says how to make one of it.

    Raises:
        ValueError: nothing there; not a UNet; weights that are missing, left over or of another shape.
        CheckpointError: a ``.pth`` that can't be used.
    """
    if isinstance(checkpoint, Mapping):
        model = MODELS.build(serving_config(checkpoint), kind=BaseModel)
        return LoadedTeacher(model.unet, 'random weights', model.alphas_cumprod, model.prediction_type)
    path = find_path(checkpoint)
    if path is None and is_hub_id(checkpoint):
        path = _download(checkpoint)
    if path is None:
        advice = ' See docs/en/user_guides/bring_your_checkpoint.md: slimdiff convert CHECKPOINT.ckpt --config ' \
                 f'{config} --out {checkpoint}' if config else ''
        raise ValueError(f"The teacher's checkpoint '{checkpoint}' does not exist. Give a .pth of tools/train.py, a "
                         f'folder of save_pretrained, or a model on the Hub as owner/name.{advice}')
    if path.is_file():
        return _from_checkpoint(path, weights)
    return _from_folder(path, scheduler)


def _download(name: str) -> Path:
    try:
        return download(name, ['*.json', 'unet/*.json', 'unet/*.safetensors', 'scheduler/*.json', '*.safetensors'])
    except ValueError as error:
        raise ValueError(f'The teacher is neither a folder here nor to be had elsewhere: {error}') from error


def _from_checkpoint(path: Path, weights: str) -> LoadedTeacher:
    data = load_checkpoint(path)
    model = MODELS.build(serving_config(data['meta']['config']['model']), kind=BaseModel)
    state = {name: value for name, value in weights_of(data, weights, path).items() if name.startswith('unet.')}
    own = {name: value for name, value in model.state_dict().items() if name.startswith('unet.')}
    check_weights(state, own, path)
    model.load_state_dict(state, strict=False)
    classes = (data['meta'].get('dataset_meta') or {}).get('classes') or ()
    return LoadedTeacher(model.unet, str(path), model.alphas_cumprod, model.prediction_type, classes,
                         null_class=bool(model.class_dropout))


def _from_folder(folder: Path, scheduler: Mapping[str, Any] | None) -> LoadedTeacher:
    unet = folder / 'unet' if (folder / 'unet').is_dir() else folder
    network = load_folder(folder, 'teacher')
    said = _scheduler_config(folder, unet) | dict(scheduler or {})
    known = dict(getattr(network.config, 'preconditioning', None) or {})
    if not said and known:  # it was made for a schedule
        said = {**known['schedule'], 'prediction_type': known['prediction_type']}
    if not said:
        return LoadedTeacher(network, str(folder))
    return LoadedTeacher(network, str(folder), DDPMScheduler.from_config(said).alphas_cumprod.double(),
                         check_prediction_type(said.get('prediction_type', 'epsilon')))


def _scheduler_config(folder: Path, unet: Path) -> dict[str, Any]:
    """The scheduler_config.json of a pipeline or beside a UNet; {} if there is none."""
    for place in (folder / 'scheduler', folder, unet.parent / 'scheduler'):
        if (place / 'scheduler_config.json').is_file():
            return json.loads((place / 'scheduler_config.json').read_text())
    return {}

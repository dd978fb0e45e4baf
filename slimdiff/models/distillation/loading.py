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
from slimdiff.models.serving import serving_config
from slimdiff.models.unets import UNet
from slimdiff.registry import MODELS

#: classes that a teacher may be, by the name in config.json; ours and diffusers'
CLASSES = ('UNet', 'UNet2DModel', 'UNet2DConditionModel')


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


def network_class(name: str) -> type[nn.Module]:
    """One of :data:`CLASSES`. diffusers' are imported when they are needed: it takes seconds."""
    import diffusers
    return UNet if name == 'UNet' else getattr(diffusers, name)


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
    if not (unet / 'config.json').is_file():
        raise ValueError(f"The teacher's folder {folder} holds neither unet/config.json (a pipeline) nor config.json "
                         '(a UNet): it was not written by save_pretrained.')
    kind = json.loads((unet / 'config.json').read_text(encoding='utf-8')).get('_class_name')
    if kind not in CLASSES:
        raise ValueError(f"The teacher in {unet} is a '{kind}'; a teacher can be one of {', '.join(CLASSES)}.")
    try:
        # Weights of another shape are not ignored: they are reported below, with those that are missing.
        network, info = network_class(kind).from_pretrained(unet, output_loading_info=True, low_cpu_mem_usage=False,
                                                      ignore_mismatched_sizes=True)
    except Exception as error:  # missing file, damaged file: diffusers and safetensors have many classes of them
        raise ValueError(f'The teacher in {unet} cannot be loaded: {error}') from error
    problems = [f'{label} {", ".join(map(_describe, sorted(info[key])[:4]))}' + (', ...' if len(info[key]) > 4 else '')
                for key, label in (('missing_keys', 'it lacks'), ('unexpected_keys', 'it has besides'),
                                   ('mismatched_keys', 'of another shape are')) if info.get(key)]
    if problems:
        raise ValueError(f'The weights of the teacher in {unet} do not fit its config: {"; ".join(problems)}. A '
                         'teacher with random layers would teach noise; save it again.')
    said = _scheduler_config(folder, unet) | dict(scheduler or {})
    known = dict(getattr(network.config, 'preconditioning', None) or {})
    if not said and known:  # our UNet says itself what its preconditioning was made for
        said = {**known['schedule'], 'prediction_type': known['prediction_type']}
    if not said:
        return LoadedTeacher(network, str(folder))
    return LoadedTeacher(network, str(folder), DDPMScheduler.from_config(said).alphas_cumprod.double(),
                         check_prediction_type(said.get('prediction_type', 'epsilon')))


def _describe(key: str | tuple[str, Any, Any]) -> str:
    """A weight's name, or (name, shape in the file, shape by the config)."""
    return key if isinstance(key, str) else f'{key[0]} {tuple(key[1])} instead of {tuple(key[2])}'


def _scheduler_config(folder: Path, unet: Path) -> dict[str, Any]:
    """The scheduler_config.json of a pipeline or beside a UNet; {} if there is none."""
    for place in (folder / 'scheduler', folder, unet.parent / 'scheduler'):
        if (place / 'scheduler_config.json').is_file():
            return json.loads((place / 'scheduler_config.json').read_text(encoding='utf-8'))
    return {}

"""Find a teacher's network and noise schedule: our checkpoint, a diffusers folder, or a name on the Hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.model import BaseModel
from torch import nn

from slimdiff.checkpoint import find_path, load_checkpoint, read_json
from slimdiff.checkpoint.hub import download, is_hub_id
from slimdiff.checkpoint.weights import check_weights, weights_of
from slimdiff.functional.process import NoiseProcess
from slimdiff.models import computation
from slimdiff.models.backbones.classes import find_class
from slimdiff.models.backbones.load import load_folder, network_folder
from slimdiff.models.serving import serving_config
from slimdiff.registry import MODELS, building
from slimdiff.sampling import noise_process

#: arguments of diffusers' networks that want an input which no student has, or timesteps of another kind: what each of
#: them is, and the values that do not
UNUSABLE = {
    'addition_embed_type': ('conditions besides the context, as those of SDXL', (None, )),
    'time_cond_proj_dim': ('an embedding of the guidance scale, as a latent consistency model', (None, )),
    'class_embed_type': ('a class embedding other than a table of classes', (None, )),
    'encoder_hid_dim_type': ('a projection of its context, as Kandinsky and adapters for images', (None, )),
    'time_embedding_type': ('an embedding of the noise level in place of the timestep', ('positional', )),
}


@dataclasses.dataclass
class LoadedTeacher:
    """A teacher's network, and the record of what it computes, as far as that is known."""
    unet: nn.Module
    source: str
    computes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: Sequence[str] = ()
    null_class: bool = True

    @property
    def noise_process(self) -> NoiseProcess | None:
        """None if unknown."""
        schedule = self.computes.get('schedule')
        return None if schedule is None else noise_process(schedule)

    @property
    def prediction_type(self) -> str | None:
        return self.computes.get('prediction_type')


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
            without a scheduler doesn't say, or says wrongly.
        config: the config file of the network; the error for a checkpoint that isn't there says how to make one of it.

    Raises:
        ValueError: nothing there; not a UNet; one that wants other inputs, or was trained for another process; weights
            that are missing, left over or of another shape.
        CheckpointError: a ``.pth`` that can't be used.
    """
    if isinstance(checkpoint, Mapping):
        model = MODELS.build(serving_config(checkpoint), kind=BaseModel)
        return LoadedTeacher(model.unet, 'random weights', computation.of_model(model))
    path = find_path(checkpoint)
    if path is None and is_hub_id(checkpoint):
        path = download_pipeline(checkpoint)
    if path is None:
        advice = ' See docs/en/user_guides/bring_your_checkpoint.md: slimdiff convert CHECKPOINT.ckpt --config ' \
                 f'{config} --out {checkpoint}' if config else ''
        raise ValueError(f"The teacher's checkpoint '{checkpoint}' does not exist. Give a .pth of tools/train.py, a "
                         f'folder of save_pretrained, or a model on the Hub as owner/name.{advice}')
    if path.is_file():
        return _from_checkpoint(path, weights)
    return _from_folder(path, scheduler)


def download_pipeline(name: str) -> Path:
    """The folder of a pipeline on the Hub: its network, scheduler and first stage, without a text encoder.

    Raises:
        ValueError: it can't be downloaded.
    """
    try:
        return download(name, ['*.json', '*.safetensors', 'scheduler/*.json', 'vae/*.json', 'vqvae/*.json',
                               *(f'{part}/*.{kind}' for part in ('unet', 'transformer')
                                 for kind in ('json', 'safetensors'))])
    except ValueError as error:
        raise ValueError(f'The teacher is neither a folder here nor could it be downloaded: {error}') from error


def _from_checkpoint(path: Path, weights: str) -> LoadedTeacher:
    data = load_checkpoint(path)
    with building(f'The teacher in {path}', Exception):
        model = MODELS.build(serving_config(data['meta']['config']['model']), kind=BaseModel)
    computes = computation.of_checkpoint(data, path)
    state = {name: value for name, value in weights_of(data, weights, path).items() if name.startswith('unet.')}
    own = {name: value for name, value in model.state_dict().items() if name.startswith('unet.')}
    check_weights(state, own, path)
    model.load_state_dict(state, strict=False)
    classes = (data['meta'].get('dataset_meta') or {}).get('classes') or ()
    return LoadedTeacher(model.unet, str(path), {**computation.of_model(model), **computes}, classes,
                         null_class=bool(model.class_dropout))


def _from_folder(folder: Path, scheduler: Mapping[str, Any] | None) -> LoadedTeacher:
    unet = network_folder(folder, 'teacher')
    config = read_json(unet / 'config.json', 'Save the teacher again.')
    check_usable(config, unet)
    computes = computation.of_folder(folder, unet, scheduler)
    return LoadedTeacher(load_folder(folder, 'teacher'), str(folder), computes)


def check_usable(config: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError for a network of diffusers that needs more than x_t, t, a class and a context.

    Args:
        config: its ``config.json``.
    """
    for key, (what, allowed) in UNUSABLE.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ValueError(f'The teacher in {folder} has {what} ({key}={config[key]!r}), which no student can give '
                             'it. Take a teacher without, such as one of LDM or Stable Diffusion 1 or 2.')
    if config.get('_class_name') == 'UNet2DConditionModel':
        kind = find_class('UNet2DConditionModel')
        blocks = {**computation.defaults_of(kind.__init__), **config}
        names = [*blocks['down_block_types'], blocks['mid_block_type'], *blocks['up_block_types']]
        if not any('CrossAttn' in str(name) for name in names):
            raise ValueError(f'The teacher in {folder} is a UNet2DConditionModel without cross-attention '
                             f'({", ".join(map(str, names))}), which nothing can condition. An unconditional teacher '
                             'is a UNet2DModel.')

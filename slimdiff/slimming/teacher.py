"""What a student takes over from its teacher: read from a checkpoint, a folder or a model of the Hub."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from slimdiff.checkpoint import find_path, installation_roots, load_checkpoint, read_json
from slimdiff.checkpoint.files import list_checkpoints
from slimdiff.checkpoint.hub import is_hub_id
from slimdiff.functional.process import RectifiedFlow
from slimdiff.installation import zoo, zoo_weights
from slimdiff.models.algorithms.draws import CLASS_DROPOUT
from slimdiff.models.backbones.protocol import bare, class_rows, expected_context
from slimdiff.models.converters.ours import as_ours
from slimdiff.models.distillation.loading import LoadedTeacher, download_pipeline, load_teacher
from slimdiff.models.serving import serving_config
from slimdiff.sampling.process import noise_process, training_config
from slimdiff.spelling import did_you_mean

#: class of a first stage in diffusers -> ours
FIRST_STAGES = {'AutoencoderKL': 'KLAutoencoder', 'VQModel': 'VQAutoencoder'}
#: standard deviation of what the network sees, where the teacher doesn't say: pixels in [-1, 1], scaled latents
SIGMA_DATA = {False: 0.5, True: 1.0}
#: steps of the sampler, where the teacher doesn't say
STEPS = 25


@dataclasses.dataclass(frozen=True)
class TeacherModel:
    """A teacher, and the arguments of :class:`~slimdiff.models.algorithms.DiffusionModel` that its student shares.

    ``checkpoint`` is what a config says of it; ``settings`` are all but the network.
    """
    checkpoint: str
    network: nn.Module
    settings: Mapping[str, Any]
    classes: tuple[str, ...] = ()

    @property
    def latent(self) -> bool:
        return 'autoencoder' in self.settings

    @property
    def text(self) -> bool:
        return 'conditioner' in self.settings

    @functools.cached_property
    def ours(self) -> nn.Module:
        """The network without its wrappers; as a UNet or DiT of slimdiff, if it is one of diffusers' that fits."""
        return as_ours(self.network)


def read_teacher(source: str) -> TeacherModel:
    """Open a teacher.

    Args:
        source: a ``.pth`` or work dir of ``train``, a folder of ``export`` or of diffusers, the name of a model that
            came with slimdiff, or ``owner/name`` on the Hugging Face Hub.

    Raises:
        ValueError: nothing there; a ``.ckpt`` of CompVis, which is converted first; a text encoder other than CLIP's.
    """
    if source.endswith('.ckpt'):
        raise ValueError(f"'{source}' is a checkpoint of CompVis, which doesn't say what network it holds. Convert it "
                         'first: slimdiff convert CHECKPOINT.ckpt --config configs/ldm/....py --out FOLDER, and give '
                         'the folder (docs/en/user_guides/bring_your_checkpoint.md).')
    path = here = find_path(source) or zoo_weights(source)
    if path is None and is_hub_id(source):
        try:
            path = download_pipeline(source)
        except ValueError as error:
            guess = did_you_mean(source, zoo())
            raise ValueError(f"No folder or model of slimdiff is called '{source}'.{guess} {error}") from None
    if path is None:
        raise ValueError(f"The teacher '{source}' is not a file, a folder or a model that came with slimdiff."
                         f'{did_you_mean(source, zoo())} Models that came with slimdiff: {", ".join(zoo())}.')
    if path.is_dir():
        path = next(iter(list_checkpoints(path)), path)
    loaded = load_teacher(str(path))
    name = portable(path) if here else source
    settings = _of_checkpoint(path) if path.is_file() else _of_folder(path, name, loaded)
    return TeacherModel(name, loaded.unet, settings, tuple(loaded.classes))


def portable(path: Path) -> str:
    """A path that a config can hold: of a folder that came with slimdiff the part that is the same everywhere."""
    path = path.resolve()
    for root in installation_roots():
        if root.resolve() in path.parents and (path.relative_to(root.resolve()).parts[0] == 'configs'):
            return path.relative_to(root.resolve()).as_posix()
    return str(path)


def _of_checkpoint(path: Path) -> dict[str, Any]:
    """As its own config has them."""
    config = serving_config(load_checkpoint(path)['meta']['config']['model'])
    return {key: value for key, value in config.items() if key not in ('type', 'unet', 'data_preprocessor', 'init_cfg')}


def _of_folder(folder: Path, name: str, loaded: LoadedTeacher) -> dict[str, Any]:
    record = dict(loaded.computes)
    if 'schedule' not in record:
        raise ValueError(f"The folder {folder} doesn't say by which noise process its network was trained: it needs "
                         'scheduler/scheduler_config.json, as save_pretrained of a pipeline writes it.')
    place = folder / 'model_index.json'
    index = read_json(place, 'Save the pipeline again.') if place.is_file() else {}
    flow = noise_process(record['schedule']).name == RectifiedFlow.name
    sampler = 'FlowMatchEulerDiscreteScheduler' if flow else 'DPMSolverMultistepScheduler'
    ours = index.get('_class_name') == 'SlimDiffusionPipeline'
    rows = class_rows(loaded.unet)
    # Ours and DiT say how many classes they have beside the null one. A UNet of diffusers has num_class_embeds: all of
    # them are classes, unless the data say otherwise.
    classes = record.get('num_classes') or (rows if hasattr(loaded.unet.config, 'num_class_embeds') else rows - 1)
    stage = record.get('first_stage')
    known = record.get('sigma_data') or SIGMA_DATA[stage is not None]
    settings = dict(
        noise_scheduler={key: value for key, value in training_config(record).items()
                         if (key, value) not in (('num_train_timesteps', 1000), ('rescale_betas_zero_snr', False))},
        sampler=dict(type=index['scheduler'][1] if ours else sampler),
        num_steps=index.get('num_inference_steps', STEPS), guidance_scale=index.get('guidance_scale', 1.0),
        sigma_data=known)
    if rows:
        null = index.get('null_class', rows > classes)
        settings |= dict(num_classes=classes, class_dropout=CLASS_DROPOUT if null else 0.0)
    if stage is not None:
        kind = FIRST_STAGES.get(stage['class'])
        if kind is None:
            raise ValueError(f"The teacher's first stage is a {stage['class']}; slimdiff has "
                             f'{", ".join(FIRST_STAGES)}. Register one of your own and write the config '
                             '(docs/en/user_guides/latents.md).')
        settings['autoencoder'] = dict(type=kind, checkpoint=name, latent_scale=stage.get('scale', 1.0))
    width = expected_context(bare(loaded.unet))
    if width:
        kind = (index.get('text_encoder') or (None, None))[1]
        if kind != 'CLIPTextModel':
            raise ValueError(f"The teacher reads a context of {width} channels from {kind or 'no text encoder'}; slim "
                             "knows CLIP's. Write the config with a conditioner of your own "
                             '(docs/en/user_guides/conditions.md).')
        settings['conditioner'] = dict(type='CLIPText', checkpoint=name, channels=width)
    return settings


def forbids_derivatives(folder: Path) -> str | None:
    """What in a folder says that no derived works may be given away: the name of the license or file; None if nothing
    does."""
    card = folder / 'README.md'
    if card.is_file():
        text = card.read_text(encoding='utf-8', errors='replace')
        found = re.search(r'^license:\s*(\S*-nd(?:-\S*)?)\s*$', text, re.M)
        if found:
            return found[1]
    for file in sorted(folder.glob('LICENSE*')):
        if re.search(r'no[ -]?derivatives', file.read_text(encoding='utf-8', errors='replace'), re.I):
            return file.name
    return None

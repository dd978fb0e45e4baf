"""A model as a folder of diffusers: networks as safetensors, configs as JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, VQModel
from torch import Tensor

from slimdiff.checkpoint import read_json
from slimdiff.checkpoint.folders import check_folder
from slimdiff.export.pipeline import SlimDiffusionPipeline
from slimdiff.models import computation
from slimdiff.models.algorithms.diffusion_model import DiffusionModel
from slimdiff.models.algorithms.draws import CLASS_DROPOUT
from slimdiff.models.autoencoders import IdentityAutoencoder, KLAutoencoder, VQAutoencoder
from slimdiff.models.autoencoders.pretrained import PretrainedAutoencoder
from slimdiff.models.backbones.protocol import StepAllocated, expected_context, offers
from slimdiff.models.conditioners import PretrainedText, TextConditioner
from slimdiff.sampling.denoise import eta_of
from slimdiff.sampling.process import training_config

#: the stock pipeline that samples with a scheduler as slimdiff does
STOCK = {'DDIMScheduler': 'DDIMPipeline', 'DDPMScheduler': 'DDPMPipeline'}
STOCK_STEPS = {'DDIMPipeline': 50, 'DDPMPipeline': 1000}
#: the parts that are first stages
FIRST_STAGES = {'vae': KLAutoencoder, 'vqvae': VQAutoencoder}
#: what an export leaves in its folder
OURS = {'unet', 'scheduler', 'vae', 'vqvae', 'text_encoder', 'tokenizer', 'model_index.json'}


def stock_pipeline(model: Any) -> str | None:
    """The name of diffusers' own pipeline that samples ``model`` alike: unconditional in pixels, by DDIM or DDPM, in
    the pipeline's own number of steps."""
    name = STOCK.get(type(model.sampler).__name__)
    plain = (isinstance(model.autoencoder, IdentityAutoencoder) and model.num_classes is None
             and expected_context(model.unet) is None and not eta_of(model.sampler)
             and name is not None and model.num_steps == STOCK_STEPS[name]
             and model.unet.dtype != torch.bfloat16  # which their conversion to numpy refuses
             # diffusers' pipelines want its own outputs, and know no other class of network than these
             and type(model.unet).__module__.partition('.')[0] in ('slimdiff', 'diffusers'))
    return name if plain else None


def make_pipeline(model: Any) -> DiffusionPipeline | None:
    """The pipeline that samples a :class:`~slimdiff.models.algorithms.DiffusionModel` as it does itself.

    None if its first stage is a class that diffusers doesn't have. The first stage and the text encoder are loaded.

    Raises:
        ValueError: the files of the first stage or of the text encoder aren't here.
    """
    name = stock_pipeline(model)
    if name is not None:
        return getattr(diffusers, name)(unet=model.unet, scheduler=model.sampler)
    return own_pipeline(model)


def as_pipeline(model: Any) -> SlimDiffusionPipeline:
    """Our pipeline of a model.

    Raises:
        ValueError: its first stage is a class that diffusers doesn't have; see :func:`make_pipeline`.
    """
    pipeline = own_pipeline(model)
    if pipeline is None:
        raise ValueError(f'A {type(model.autoencoder).__name__} is not a class of diffusers, so there is no pipeline '
                         'of this model: sample it with slimdiff sample, or model.sample(...).')
    return pipeline


def own_pipeline(model: Any) -> SlimDiffusionPipeline | None:
    """As :func:`make_pipeline`, never a stock one."""
    parts: dict[str, Any] = {}
    if isinstance(model.autoencoder, PretrainedAutoencoder):
        network = model.autoencoder.new_network()
        # What reads the folder without our pipeline finds the scale there (of VQ models, not diffusers' default).
        network.register_to_config(scaling_factor=model.autoencoder.latent_scale)
        parts |= {'vqvae' if isinstance(network, VQModel) else 'vae': network,
                  'latent_scale': model.autoencoder.latent_scale}
    elif not isinstance(model.autoencoder, IdentityAutoencoder):
        return None
    if isinstance(model.conditioner, PretrainedText):
        parts['tokenizer'], parts['text_encoder'] = model.conditioner.parts()
        parts['max_length'] = model.conditioner.max_length
    return SlimDiffusionPipeline(unet=model.unet, scheduler=model.sampler, process=model.process,
                                 num_inference_steps=model.num_steps, guidance_scale=model.guidance_scale,
                                 num_classes=model.num_classes,
                                 null_class=bool(model.class_dropout),
                                 id2label=None if model.class_names is None else dict(enumerate(model.class_names[0])),
                                 **parts)


class PipelineText(TextConditioner):
    """The text encoder of a pipeline."""

    def __init__(self, pipeline: SlimDiffusionPipeline) -> None:
        super().__init__(expected_context(pipeline.unet))
        self.pipeline, self.max_length = pipeline, pipeline.config.max_length

    def __call__(self, captions: Sequence[str], device: torch.device | str = 'cpu') -> Tensor:
        return self.pipeline.encode_prompt(captions, torch.device(device)).float()


def model_of(pipeline: DiffusionPipeline) -> DiffusionModel:
    """The inverse of :func:`make_pipeline`: the model that a pipeline samples, around the same networks.

    Raises:
        ValueError: a pipeline without ``unet`` and ``scheduler``, or one whose steps have their widths already.
    """
    parts = {name: getattr(pipeline, name, None)
             for name in ('unet', 'scheduler', 'vae', 'vqvae', 'text_encoder', 'tokenizer')}
    if parts['unet'] is None or parts['scheduler'] is None:
        raise ValueError(f'{type(pipeline).__name__}: a pipeline with unet and scheduler is needed here.')
    if offers(parts['unet'], StepAllocated):
        raise ValueError("The pipeline's network already has an allocation; load the network that it was made from.")
    if not isinstance(pipeline, SlimDiffusionPipeline):
        stage = parts['vae'] or parts['vqvae']
        pipeline = SlimDiffusionPipeline(**parts, latent_scale=stage.config.scaling_factor if stage else 1.0)
    config, process, model = pipeline.config, pipeline.config.process, {}
    for name, kind in FIRST_STAGES.items():
        if parts[name] is not None:
            model['autoencoder'] = kind.around(parts[name], config.latent_scale)
    if parts['text_encoder'] is not None and parts['tokenizer'] is not None:
        model['conditioner'] = PipelineText(pipeline)
    model = DiffusionModel(unet=parts['unet'], noise_scheduler=training_config(process),
                           sampler=parts['scheduler'], num_steps=config.num_inference_steps,
                           guidance_scale=config.guidance_scale, sigma_data=None, num_classes=pipeline.num_classes,
                           class_dropout=CLASS_DROPOUT if config.null_class else 0.0, **model)
    names = {int(label): name for label, name in (config.id2label or {}).items()}
    model.check_classes([names[label] for label in sorted(names)], 'the pipeline')
    return model.eval()


def check_export_folder(folder: str | Path, own: Collection[str] = ()) -> Path:
    """Raise ValueError unless ``folder`` is free, or holds an earlier export, with ``own`` files beside it."""
    folder = check_folder(folder, OURS | set(own), 'OUT')
    if folder.is_dir() and any(folder.iterdir()):
        config = read_json(folder / 'unet' / 'config.json', 'Give a new folder.')
        if computation.RECORD not in config:
            raise ValueError(f'OUT: {folder} holds a pipeline that slimdiff has not written. Nothing was; give a new '
                             'folder.')
    return folder


def export_pipeline(model: Any, folder: Path, unet_only: bool = False) -> str | None:
    """Write ``model`` into ``folder``; returns the pipeline's name.

    None for ``unet/`` and ``scheduler/`` alone: with ``unet_only``, or where :func:`make_pipeline` has none.

    Raises:
        ValueError: see :func:`make_pipeline`.
    """
    model.unet.register_to_config(**{computation.RECORD: computation.of_model(model)})
    pipeline = None if unet_only else make_pipeline(model)
    if pipeline is not None:
        pipeline.save_pretrained(folder, safe_serialization=True)
        return type(pipeline).__name__
    model.unet.save_pretrained(folder / 'unet')
    model.sampler.save_pretrained(folder / 'scheduler')
    return None

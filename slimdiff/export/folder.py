"""A model as a folder of diffusers: networks as safetensors, configs as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline, VQModel

from slimdiff.export.pipeline import SlimDiffusionPipeline
from slimdiff.models import computation
from slimdiff.models.autoencoders import IdentityAutoencoder
from slimdiff.models.autoencoders.pretrained import PretrainedAutoencoder
from slimdiff.models.backbones.protocol import expected_context
from slimdiff.models.conditioners import PretrainedText
from slimdiff.sampling.denoise import eta_of

#: the stock pipeline that samples with a scheduler as slimdiff does
STOCK = {'DDIMScheduler': 'DDIMPipeline', 'DDPMScheduler': 'DDPMPipeline'}
#: what an export leaves in its folder
OURS = {'unet', 'scheduler', 'vae', 'vqvae', 'text_encoder', 'tokenizer', 'model_index.json'}


def stock_pipeline(model: Any) -> str | None:
    """The name of diffusers' own pipeline that samples ``model`` alike: unconditional in pixels, by DDIM or DDPM."""
    plain = (isinstance(model.autoencoder, IdentityAutoencoder) and model.num_classes is None
             and expected_context(model.unet) is None and not eta_of(model.sampler)
             # diffusers' pipelines want its own outputs, and know no other class of network than these
             and type(model.unet).__module__.partition('.')[0] in ('slimdiff', 'diffusers'))
    return STOCK.get(type(model.sampler).__name__) if plain else None


def make_pipeline(model: Any) -> DiffusionPipeline | None:
    """The pipeline that samples a :class:`~slimdiff.models.algorithms.DiffusionModel` as it does itself.

    None if its first stage is a class that diffusers doesn't have. The first stage and the text encoder are loaded.

    Raises:
        ValueError: the files of the first stage or of the text encoder aren't here.
    """
    name = stock_pipeline(model)
    if name is not None:
        return getattr(diffusers, name)(unet=model.unet, scheduler=model.sampler)
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

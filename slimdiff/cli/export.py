"""``slimdiff export CONFIG CHECKPOINT OUT``: the network as a diffusers folder.

A pipeline folder (``unet/``, ``scheduler/``, ``model_index.json``) for the samplers that stock pipelines of diffusers
serve; of a distilled model the student alone: no projections, no teacher.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly

#: the stock pipeline that samples with a scheduler as slimdiff does
PIPELINES = {'DDIMScheduler': 'DDIMPipeline', 'DDPMScheduler': 'DDPMPipeline'}
DTYPES = ('float32', 'bfloat16', 'float16')
#: what an export leaves in its folder
OURS = {'unet', 'scheduler', 'model_index.json'}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff export', description='Write the network of a checkpoint as a '
                                     'diffusers folder.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='a .pth of train')
    parser.add_argument('out', help='the folder to write; one of an earlier export is replaced')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of the weights')
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    return parser.parse_args(argv)


def check_folder(folder: Path) -> None:
    """Raise ValueError for a folder that holds anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'OUT: {folder} is a file; give a folder.')
    others = sorted(p.name for p in folder.glob('*') if p.name not in OURS) if folder.is_dir() else []
    if others:
        raise ValueError(f'OUT: {folder} holds {", ".join(others[:3])}{", ..." if len(others) > 3 else ""}, which no '
                         'export has written. Nothing was; give a new folder.')


def export_pipeline(model: Any, folder: Path) -> str | None:
    """Write ``model.unet`` and ``model.sampler``; returns the name of the pipeline, None if no stock one fits.

    A pipeline is written if the sampler is DDIM or DDPM, and the model works on pixels: the stock ones neither decode
    latents nor run other samplers alike.
    """
    from slimdiff.models.unets.context import expected_context
    pipeline = PIPELINES.get(type(model.sampler).__name__)
    if model.autoencoder.downsampling > 1 or expected_context(model.unet):
        pipeline = None
    model.unet.save_pretrained(folder / 'unet')
    model.sampler.save_pretrained(folder / 'scheduler')
    index = folder / 'model_index.json'
    if pipeline is None:
        index.unlink(missing_ok=True)  # of an earlier export
        return None
    import diffusers
    index.write_text(json.dumps({
        '_class_name': pipeline, '_diffusers_version': diffusers.__version__,
        'scheduler': ['diffusers', type(model.sampler).__name__], 'unet': ['slimdiff', 'UNet']}, indent=2) + '\n')
    return pipeline


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Export; returns the exit status."""
    args = parse(argv)
    folder = Path(args.out)
    check_folder(folder)
    cfg = load_checked_config(args)

    import torch

    from slimdiff.checkpoint import load_weights
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    model = MODELS.build(serving_config(cfg.model))
    load_weights(model, args.checkpoint, args.weights)
    model.unet.to(getattr(torch, args.dtype))
    pipeline = export_pipeline(model, folder)
    count = sum(p.numel() for p in model.unet.parameters())
    print(f'{folder}: UNet of {count:,} parameters ({args.dtype}, {args.weights} weights) and '
          f'{type(model.sampler).__name__}')
    if pipeline:
        print(f"Load it: import slimdiff; diffusers.{pipeline}.from_pretrained('{folder}')")
    else:
        print('No stock pipeline of diffusers samples this model as slimdiff does, so there is no model_index.json: '
              f"load it with slimdiff.UNet.from_pretrained('{folder}/unet') and the scheduler's from_pretrained.")
    return 0

"""``slimdiff export CONFIG CHECKPOINT OUT``: the model as a diffusers folder, or its network as ONNX or torch.export.

A folder holds everything that sampling needs (``unet/``, ``scheduler/``, the first stage, the text encoder), and
``DiffusionPipeline.from_pretrained`` opens it after ``import slimdiff``. A program (``.onnx``, ``.pt2``) is the UNet
alone. Of a distilled model only the student is exported: no projections, no teacher.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from slimdiff.cli.common import (
    add_allocation_argument,
    add_config_arguments,
    add_trust_argument,
    check_files,
    load_checked_config,
    runs_cleanly,
    use_allocation,
)
from slimdiff.version import __version__

DTYPES = ('float32', 'bfloat16', 'float16')
SUFFIXES = {'onnx': '.onnx', 'torch': '.pt2'}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff export', description='Write the model of a checkpoint as a '
                                     'diffusers folder, or its network as an ONNX or torch.export program.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='a .pth of train or publish_model')
    parser.add_argument('out', help='the folder to write, or the file (.onnx, .pt2); one of an earlier export is '
                        'replaced')
    parser.add_argument('--format', choices=('diffusers', *SUFFIXES),
                        help='default: by the end of OUT, .onnx for onnx, .pt2 for torch (torch.export), else a folder '
                        'of diffusers; onnx and torch are compared with PyTorch and timed')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help="of the UNet's weights; programs are in "
                        'float32')
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--unet-only', action='store_true', help='of a folder: no first stage, no text encoder')
    parser.add_argument('--opset', type=int, help='of an ONNX program; default: what PyTorch recommends')
    parser.add_argument('--context-length', type=int, help='of a program with cross-attention: tokens of the context '
                        "(default: the text encoder's)")
    add_allocation_argument(parser)
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    implied = {suffix: name for name, suffix in SUFFIXES.items()}.get(Path(args.out).suffix.lower(), 'diffusers')
    args.format = args.format or implied
    suffix = SUFFIXES.get(args.format)
    if args.format != implied:
        parser.error(f'--format {args.format} writes a file: OUT must end in {suffix}, got {args.out}' if suffix else
                     f'--format diffusers writes a folder, but OUT is {args.out}: leave --format out for the file that '
                     f'it names, or choose a name without {Path(args.out).suffix}')
    if suffix and args.dtype != 'float32':
        parser.error(f'--format {args.format} is in float32; --dtype is for folders of diffusers')
    if args.opset is not None and args.format != 'onnx':
        parser.error(f'--opset is for ONNX programs: OUT must end in .onnx, got {args.out}')
    if suffix and args.allocation:
        parser.error(f'--format {args.format} writes a single network; --allocation is for folders of diffusers')
    return args


def load_model(args: argparse.Namespace) -> Any:
    """The model of the config with the weights of the checkpoint, without what only training needs."""
    from slimdiff.export.load import load_checked_weights
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    cfg = load_checked_config(args)
    model = MODELS.build(serving_config(cfg.model))
    load_checked_weights(model, args.checkpoint, args.weights, args.trust_config)
    use_allocation(model, args.allocation)
    return model.eval()


def describe(model: Any, args: argparse.Namespace) -> str:
    if args.allocation is not None:
        return f'step-aware UNet ({args.dtype}, {args.weights} weights), {model.unet.memory()}'
    count = sum(p.numel() for p in model.unet.parameters())
    return f'UNet of {count:,} parameters ({args.dtype}, {args.weights} weights)'


def export_folder(args: argparse.Namespace) -> None:
    """Write the folder, whole or not at all, and say how to open it."""
    from slimdiff.checkpoint.folders import atomic_folder
    from slimdiff.export.folder import check_export_folder, export_pipeline
    folder = check_export_folder(args.out)
    model = load_model(args)
    import torch
    # Not diffusers' own `to`, which warns of modules to keep in float32, though the list of them is empty.
    torch.nn.Module.to(model.unet, getattr(torch, args.dtype))
    with atomic_folder(folder) as temporary:
        pipeline = export_pipeline(model, temporary, args.unet_only)
        parts = sorted(part.name for part in temporary.iterdir() if part.is_dir())
    print(f'{folder}: {describe(model, args)}, {type(model.sampler).__name__}; {", ".join(f"{p}/" for p in parts)}')
    if pipeline is None:
        why = '' if args.unet_only else (f'A {type(model.autoencoder).__name__} is not a class of diffusers, so there '
                                         'is no model_index.json. ')
        cls = type(model.unet)
        print(f"{why}To load it: {cls.__module__}.{cls.__name__}.from_pretrained('{folder}/unet'), and the "
              "scheduler's from_pretrained.")
        return
    print(f"To load it: import slimdiff; diffusers.DiffusionPipeline.from_pretrained('{folder}')  # a {pipeline}")
    if model.conditioner is not None and 'text_encoder' not in parts:
        print(f'A {type(model.conditioner).__name__} is not a class of transformers: the pipeline takes prompt_embeds '
              'in place of texts.')


def export_program(args: argparse.Namespace) -> None:
    """Write an ONNX or torch.export program, once its output has been compared; print the times."""
    if args.format == 'onnx':
        from slimdiff.export.program import check_opset, require_onnx
        check_opset(args.opset)  # before the work
        require_onnx()
    import torch

    from slimdiff.export import program as programs
    from slimdiff.sampling.denoise import eta_of
    out = Path(args.out)
    if out.is_dir():
        raise ValueError(f'OUT: {out} is a folder; --format {args.format} writes a file.')
    model = load_model(args)
    length = args.context_length or getattr(model.conditioner, 'max_length', 77)

    def inputs(batch: int) -> dict[str, Any]:
        made = programs.random_inputs(model.unet, batch, length, model.num_train_timesteps)
        return {**made, 'timestep': model.noise_process.timesteps(made['timestep'].double())}

    info = {'slimdiff_version': __version__, 'config': args.config, 'scheduler': type(model.sampler).__name__,
            'scheduler_config': json.loads(model.sampler.to_json_string()), 'eta': eta_of(model.sampler),
            'num_inference_steps': model.num_steps, 'guidance_scale': model.guidance_scale,
            'num_classes': model.num_classes}
    with contextlib.suppress(ValueError):  # the first stage's own, and that isn't here
        info['latent_scale'] = model.autoencoder.latent_scale
        info |= {f'latent_{key}': value for key, value in getattr(model.autoencoder, 'describe', dict)().items()
                 if key in ('mean', 'std')}
    traced = programs.trace(model.unet, inputs)
    most = programs.largest_batch(traced)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as folder:
        file, what = Path(folder) / out.name, 'torch.export'
        if args.format == 'onnx':
            what = f'ONNX, opset {programs.write_onnx(programs.convert_onnx(traced, info, args.opset), file)}'
            run = programs.open_onnx(file)
        else:
            programs.write_torch(traced, file, info)
            run = programs.open_torch(file)
        found = programs.compare(model.unet, run, inputs)
        for part in sorted(Path(folder).iterdir(), reverse=True):  # the weights' file before the one that names it
            os.replace(part, out.with_name(part.name))
    print(f'{out}: {describe(model, args)} as {what}; '
          + ('any batch size' if most is None else f'batches of up to {most}'))
    for name, value in inputs(1).items():
        print(f'  {name}  {" x ".join(["batch", *map(str, value.shape[1:])])}  {str(value.dtype)[6:]}')
    name = 'ONNX Runtime' if args.format == 'onnx' else 'the program'
    print(f'Against PyTorch (eager, float32, CPU, {torch.get_num_threads()} threads; median of runs in turn):')
    for one in found:
        print(f'  batch {one.batch}: largest difference {one.difference:.1e}; PyTorch {1e3 * one.eager_seconds:.4g} '
              f'ms, {name} {1e3 * one.program_seconds:.4g} ms, '
              f'{one.eager_seconds / one.program_seconds:.2f}x as fast ({one.runs} runs)')


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Export; returns the exit status."""
    args = parse(argv)
    check_files(args)
    if args.format == 'diffusers':
        export_folder(args)
    else:
        export_program(args)
    return 0

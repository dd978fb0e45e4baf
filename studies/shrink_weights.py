"""Store the large matrices of shipped weights in 8 bits, and measure what that changes.

    python studies/shrink_weights.py configs/ldm/fashion_mnist.py [--least 5000] [--dry-run]

Convolutions and linear layers of at least ``--least`` weights become float8_e4m3fn (3 bits of mantissa), the rest
stays in half precision. Small layers are sensitive and take no room. diffusers and slimdiff read the file into float32
as any other. The change of the paired denoising error, with its standard error over images, is added to
``benchmarks/results/zoo_precision.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slimdiff.checkpoint import read_json, write_json
from slimdiff.configuration import load_config
from slimdiff.datasets import build_dataloader
from slimdiff.installation import shipped_weights
from slimdiff.models.backbones.load import load_folder
from slimdiff.models.backbones.protocol import at_run, runs_of
from slimdiff.models.serving import serving_config
from slimdiff.registry import METRICS, MODELS

RESULTS = Path('benchmarks/results/zoo_precision.json')
WEIGHTS = 'unet/diffusion_pytorch_model.safetensors'


def shrink(weights: dict[str, Tensor], least: int) -> dict[str, Tensor]:
    """Matrices and kernels of at least ``least`` numbers in 8 bits, all other tensors in 16.

    Raises:
        ValueError: a weight beyond the largest 8-bit number, 448.
    """
    eight = torch.float8_e4m3fn
    large = {name: tensor.ndim > 1 and tensor.numel() >= least for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if large[name] and tensor.float().abs().max() > torch.finfo(eight).max:
            raise ValueError(f'{name} holds weights above {torch.finfo(eight).max:g}, which 8 bits cannot hold.')
    return {name: tensor.to(eight if large[name] else torch.float16) for name, tensor in weights.items()}


def errors(model: Any, loader: Any, num_images: int) -> dict[str, Tensor]:
    """Width -> denoising error of each image."""
    metric = METRICS.build(dict(type='BandwiseDenoisingError', num_images=num_images))
    widths = torch.tensor([b - a for a, b in zip(metric.timestep_edges, metric.timestep_edges[1:])]).double()
    found = {}
    for run in runs_of(model.unet):
        with at_run(model.unet, run):
            table = metric.table(model, loader).sum(2)  # over bands
        found[run.size] = table @ widths / widths.sum()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('--least', type=int, default=5000, help='weights of a layer from which on it has 8 bits')
    parser.add_argument('--num-images', type=int, default=500)
    parser.add_argument('--dry-run', action='store_true', help='measure, but leave the file as it is')
    args = parser.parse_args()
    cfg, folder = load_config(args.config), shipped_weights(Path(args.config))
    before = load_file(folder / WEIGHTS)
    after = shrink(before, args.least)
    model = MODELS.build(serving_config(cfg.model)).eval()
    model.unet.load_state_dict(load_folder(folder).state_dict())
    loader = build_dataloader(cfg.val_dataloader)
    first = errors(model, loader, args.num_images)
    model.unet.load_state_dict({name: tensor.float() for name, tensor in after.items()})
    second = errors(model, loader, args.num_images)
    size = {'before': sum(t.nbytes for t in before.values()), 'after': sum(t.nbytes for t in after.values())}
    change = {run: dict(before=first[run].mean().item(), relative=((second[run] - first[run]).mean() / first[run].mean()
                                                                   ).item(),
                        stderr=((second[run] - first[run]).std() / len(first[run])**0.5 / first[run].mean()).item())
              for run in first}
    if not args.dry_run:
        save_file(after, folder / WEIGHTS, metadata={'format': 'pt'})
        results = read_json(RESULTS, 'Remove it.') if RESULTS.is_file() else {}
        results[args.config] = dict(least=args.least, num_images=args.num_images, bytes=size, denoising_error=change)
        write_json(RESULTS, results)
    print(args.config, size, change)


if __name__ == '__main__':
    main()

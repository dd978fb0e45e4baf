"""``slimdiff sample CONFIG CHECKPOINT``: images from a checkpoint, as PNG files, one npz or a grid.

Image i of a seed is always the same, so a PNG folder that was interrupted is completed by the same command, on any
number of ranks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from slimdiff.cli.common import (
    add_allocation_argument,
    add_captions_argument,
    add_checkpoint_argument,
    add_config_arguments,
    add_launcher_argument,
    add_sampler_arguments,
    chosen_scheduler,
    load_checked_config,
    runs_cleanly,
    use_allocation,
    use_captions,
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff sample', description='Generate images.')
    add_config_arguments(parser)
    add_checkpoint_argument(parser)
    parser.add_argument('--out', default='samples', help='a folder for PNG files, or a file: *.npz, or *.png (a grid)')
    parser.add_argument('-n', '--num', type=int, default=16, help='how many images')
    parser.add_argument('--labels', help='class labels, as 0,3,3,7 (repeated as needed); default: all in '
                        'turn; none: the null class, which is what stock pipelines of diffusers sample')
    parser.add_argument('--seed', type=int, default=0)
    add_sampler_arguments(parser)
    parser.add_argument('--steps', type=int, help='denoising steps')
    parser.add_argument('--guidance', type=float, help='classifier-free guidance scale; 1 is none')
    parser.add_argument('--batch-size', type=int, default=64, help='on each rank; does not change the images')
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--columns', type=int, help='images in a row of a grid')
    parser.add_argument('--zoom', type=int, default=1, help='enlarge the pixels of a grid')
    parser.add_argument('--amp', action='store_true', help='bf16 autocast')
    parser.add_argument('--overwrite', action='store_true', help='replace images of other settings in --out')
    add_allocation_argument(parser)
    add_captions_argument(parser)
    add_launcher_argument(parser)
    args = parser.parse_args(argv)
    for name in ('num', 'batch_size', 'zoom', 'columns'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


def build_model(cfg: Any, checkpoint: str | Path, weights: str, allocation: str | None = None) -> Any:
    """The model of the config with the weights of the checkpoint, on this rank's device.

    ``allocation`` is a file: its network then runs at a width of its own at each step.
    """
    return load_model(cfg, checkpoint, weights, allocation)[0]


def load_model(cfg: Any, checkpoint: str | Path, weights: str,
               allocation: str | None = None) -> tuple[Any, dict[str, Any]]:
    """As :func:`build_model`, and the config of the network as the checkpoint has it; empty if it doesn't say."""
    import torch
    from mmengine.device import get_device

    from slimdiff.export.load import load_trained
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    model = MODELS.build(serving_config(cfg.model))
    trained = load_trained(model, checkpoint, weights)
    use_allocation(model, allocation)
    return model.to(torch.device(get_device())).eval(), trained


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the images depend on; written beside them."""
    keys = ('config', 'checkpoint', 'weights', 'labels', 'captions', 'seed', 'scheduler', 'eta', 'steps', 'guidance',
            'amp')
    allocation = None if args.allocation is None else json.loads(Path(args.allocation).read_text(encoding='utf-8'))
    return {key: getattr(args, key) for key in keys} | {'cfg_options': args.cfg_options, 'allocation': allocation}


def labels_for(text: str | None, indices: list[int], num_classes: int | None = None) -> Any:
    import torch
    if text is None or num_classes is None:
        return None
    if text == 'none':
        return torch.full((len(indices), ), num_classes)
    try:
        labels = [int(word) for word in text.split(',')]
    except ValueError:
        raise ValueError(f"--labels takes integers with commas between, such as 0,3,7, or 'none' for the "
                         f"null class; got '{text}'.") from None
    return torch.tensor([labels[i % len(labels)] for i in indices])


def prepare_folder(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder, or check that the images in it come from the same settings."""
    note = folder / 'sampling.json'
    if folder.is_dir() and any(folder.glob('*.png')):
        before = json.loads(note.read_text()) if note.exists() else None
        # A setting that an earlier release didn't have is one that wasn't made.
        if before is None or {**dict.fromkeys(settings), **before} != settings:
            if not overwrite:
                differs = 'unknown settings' if before is None else ', '.join(
                    f'{k}={before.get(k)!r}' for k in settings if before.get(k) != settings[k])
                raise ValueError(f'{folder} already holds images made with {differs}. Choose another --out, or '
                                 '--overwrite to replace them.')
            for image in folder.glob('*.png'):
                image.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings, indent=1) + '\n')


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Sample; returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args)
    use_captions(cfg, args.captions)

    import torch
    from mmengine.dist import barrier, init_dist, is_distributed, is_main_process

    from slimdiff.engine.distributed import init_cpu_process_group, leave_at_exit
    from slimdiff.evaluation.common import evaluating, gather_rows, shard
    from slimdiff.evaluation.progress import Progress
    from slimdiff.sampling.images import save_grid, save_png, to_uint8
    init_cpu_process_group(args.launcher)
    if args.launcher != 'none' and not is_distributed():
        init_dist(args.launcher)
    leave_at_exit()
    model = build_model(cfg, args.checkpoint, args.weights, args.allocation)
    # Built before anything is written: that is when it is refused.
    sampling = {'num_steps': args.steps, 'guidance_scale': args.guidance,
                'scheduler': model.sampler_of(chosen_scheduler(args), args.steps)}
    out = Path(args.out)
    to_folder = out.suffix not in ('.npz', '.png')
    if to_folder and is_main_process():
        prepare_folder(out, settings_of(args), args.overwrite)
    barrier()

    indices = list(shard(args.num))
    if to_folder:
        indices = [i for i in indices if not (out / f'{i:06d}.png').exists()]
    made = []
    with Progress(len(indices), 'sampling') as bar, evaluating(model, args.amp):
        for start in range(0, len(indices), args.batch_size):
            part = indices[start:start + args.batch_size]
            labels = labels_for(args.labels, part, model.num_classes)
            images = to_uint8(model.sample(part, seed=args.seed, labels=labels, **sampling))
            if to_folder:
                for i, image in zip(part, images):
                    save_png(image, out / f'{i:06d}.png')
            else:
                made.append(images.cpu())
            bar.update(len(part))
    if not to_folder:
        rows = gather_rows({'images': torch.cat(made)} if made else {})
        if is_main_process():
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.suffix == '.npz':
                import numpy as np
                np.savez(out, images=rows['images'].permute(0, 2, 3, 1).numpy(), settings=json.dumps(settings_of(args)))
            else:
                save_grid(rows['images'], out, columns=args.columns, zoom=args.zoom)
    barrier()
    if is_main_process():
        print(f'{args.num} images in {out}')
    return 0

"""``slimdiff sample CONFIG CHECKPOINT``: images from a checkpoint, as PNG files, one npz or a grid.

Image i of a seed is always the same, so a PNG folder that was interrupted is completed by the same command, on any
number of ranks.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from slimdiff.cli.common import (
    add_allocation_argument,
    add_captions_argument,
    add_checkpoint_argument,
    add_config_arguments,
    add_launcher_argument,
    add_sampler_arguments,
    add_trust_argument,
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
    parser.add_argument('--out', default='samples', help='a folder for PNG files, or a file: *.npz, or a '
                        'picture (*.png, *.jpg, ...: a grid)')
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
    add_trust_argument(parser)
    add_launcher_argument(parser)
    args = parser.parse_args(argv)
    for name in ('num', 'batch_size', 'zoom', 'columns'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


def build_model(cfg: Any, checkpoint: str | Path, weights: str, allocation: str | None = None,
                trust_config: bool = False) -> Any:
    """The model of the config with the weights of the checkpoint, on this rank's device.

    ``allocation`` is a file: its network then runs at a width of its own at each step.
    """
    return load_model(cfg, checkpoint, weights, allocation, trust_config)[0]


def load_model(cfg: Any, checkpoint: str | Path, weights: str, allocation: str | None = None,
               trust_config: bool = False) -> tuple[Any, dict[str, Any]]:
    """As :func:`build_model`, and the config of the network as the checkpoint has it; empty if it doesn't say."""
    import torch
    from mmengine.device import get_device

    from slimdiff.export.load import load_trained
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    model = MODELS.build(serving_config(cfg.model))
    trained = load_trained(model, checkpoint, weights, trust_config)
    for split in ('train', 'val', 'test'):
        data = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}
        names = data.get('classes') or data.get('photos')
        if isinstance(names, (list, tuple)) and hasattr(model, 'check_classes'):
            model.check_classes(names, f'{split}_dataloader.dataset of the config')
    use_allocation(model, allocation)
    return model.to(torch.device(get_device())).eval(), trained


def labels_for(text: str | None, indices: list[int], num_classes: int | None = None) -> Any:
    import torch
    if text is None or (text == 'none' and num_classes is None):
        return None
    if num_classes is None:
        raise ValueError(f'--labels {text}: the model has no classes; leave --labels out.')
    if text == 'none':
        return torch.full((len(indices), ), num_classes)
    try:
        labels = [int(word) for word in text.split(',')]
    except ValueError:
        raise ValueError(f"--labels takes integers with commas between, such as 0,3,7, or 'none' for the "
                         f"null class; got '{text}'.") from None
    return torch.tensor([labels[i % len(labels)] for i in indices])


def is_file(out: Path) -> bool:
    """Whether ``--out`` means one file, by its ending: an npz, or any picture that Pillow writes.

    Raises:
        ValueError: something else is there, or a picture format that can't be written.
    """
    from slimdiff.sampling.images import image_format
    file = out.suffix.lower() == '.npz' or image_format(out) is not None
    if file and out.is_dir():
        raise ValueError(f'--out: {out} is a folder, but the ending {out.suffix} means a file; choose another name.')
    if not file and out.exists() and not out.is_dir():
        raise ValueError(f'--out: {out} is a file; give a folder, or a file that ends with .npz, .png, .jpg, ...')
    return file


def prepare_folder(folder: Path, identity: dict[str, Any], source: dict[str, Any], overwrite: bool) -> None:
    """Make the folder, or check that the images in it are of the same :func:`sampling_identity`.

    Args:
        source: where the model came from, for the reader of ``sampling.json``.
    """
    from slimdiff.checkpoint import read_json, write_json
    from slimdiff.checkpoint.files import remove_temporary_files
    from slimdiff.checkpoint.same import require_same
    note, advice = folder / 'sampling.json', 'Choose another --out, or --overwrite to replace them.'
    images = sorted(folder.glob('*.png'))
    if images and not overwrite:
        if not note.is_file():
            raise ValueError(f'{folder} already holds images, and no {note.name} that says of which model. {advice}')
        before = read_json(note, f'Of which model the images in {folder} are is not known: {advice}').get('identity')
        if not isinstance(before, dict):
            raise ValueError(f'{note} does not say of which weights and settings the images there are: an older '
                             f'slimdiff wrote it. {advice}')
        require_same(before, identity, f'{folder} already holds images made', advice)
    for image in images if overwrite else [image for image in images if not image.stat().st_size]:
        image.unlink()
    remove_temporary_files(folder)
    write_json(note, dict(identity=identity, **source))


def prepare_parent(file: Path) -> None:
    """Make the folder of a file, before the work of which it takes the outcome.

    Raises:
        OSError: it cannot be made, or not be written into.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Sample; returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args)
    use_captions(cfg, args.captions)
    out = Path(args.out)
    to_folder = not is_file(out)
    if (to_folder or out.suffix.lower() == '.npz') and (args.columns is not None or args.zoom != 1):
        raise ValueError(f'--columns and --zoom are for a grid, but --out {out} is none: give a file that ends with '
                         '.png, .jpg, ..., or leave them out.')

    import torch
    from mmengine.dist import barrier, is_main_process

    from slimdiff.checkpoint.same import as_json
    from slimdiff.engine.distributed import join_processes
    from slimdiff.evaluation.common import evaluating, gather_rows, locked, run_on_rank0, shard
    from slimdiff.models.serving import sampling_identity
    from slimdiff.progress import Progress
    from slimdiff.sampling.images import save_grid, save_image, to_uint8
    join_processes(args.launcher)
    model = build_model(cfg, args.checkpoint, args.weights, args.allocation, args.trust_config)
    labels_for(args.labels, [], model.num_classes)
    if hasattr(model, 'check_guidance'):
        model.check_guidance(args.guidance)
    # Built before anything is written: that is when it is refused.
    sampling = {'num_steps': args.steps, 'guidance_scale': args.guidance,
                'scheduler': model.sampler_of(chosen_scheduler(args), args.steps)}
    identity = run_on_rank0(lambda: sampling_identity(
        model, **sampling, seed=args.seed, labels=args.labels, amp=args.amp))
    source = as_json({'config': args.config, 'checkpoint': args.checkpoint, 'cfg_options': args.cfg_options})
    made = []
    with contextlib.ExitStack() as stack:
        indices = list(shard(args.num))
        if to_folder:
            stack.enter_context(locked(out, 'sampling'))
            run_on_rank0(lambda: prepare_folder(out, identity, source, args.overwrite))
            indices = [i for i in indices if not (out / f'{i:06d}.png').exists()]
        else:
            run_on_rank0(lambda: prepare_parent(out))
        bar = stack.enter_context(Progress(len(indices), 'sampling'))
        stack.enter_context(evaluating(model, args.amp))
        for start in range(0, len(indices), args.batch_size):
            part = indices[start:start + args.batch_size]
            labels = labels_for(args.labels, part, model.num_classes)
            images = to_uint8(model.sample(part, seed=args.seed, labels=labels, **sampling))
            if to_folder:
                for i, image in zip(part, images):
                    save_image(image, out / f'{i:06d}.png')
            else:
                made.append(images.cpu())
            bar.update(len(part))
        barrier()  # the lock is for all ranks
    if not to_folder:
        rows = gather_rows({'images': torch.cat(made)} if made else {})
        if is_main_process():
            if out.suffix.lower() == '.npz':
                import numpy as np

                from slimdiff.checkpoint import atomic_write
                content = dict(images=rows['images'].permute(0, 2, 3, 1).numpy(),
                               settings=json.dumps(dict(identity=identity, **source)))
                atomic_write(out, lambda file: np.savez(file, **content))
            else:
                save_grid(rows['images'], out, columns=args.columns, zoom=args.zoom)
    barrier()
    if is_main_process():
        print(f'{args.num} images in {out}')
    return 0

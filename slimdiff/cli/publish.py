"""``slimdiff publish CONFIG CHECKPOINT OUT``: package weights for release, with a hash in the name and a model card.

From a checkpoint of training: the optimizer, logs and what else only training needs are left out, and of averaged and
trained weights one set is kept. As a ``.pth``, which is a checkpoint for every command of slimdiff and a teacher, or as
a folder of diffusers; ``--push OWNER/NAME`` also uploads it to the Hugging Face Hub.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from pathlib import Path

from slimdiff.cli.common import add_config_arguments, add_trust_argument, load_checked_config, runs_cleanly


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='slimdiff publish', description='Make a checkpoint of training fit to be '
                                     'given away: weights and a model card, nothing else.')
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='a .pth of train')
    parser.add_argument('out', help='the folder to write; one of an earlier publication of the name is replaced')
    parser.add_argument('--name', help="of the model (default: the config's)")
    parser.add_argument('--format', choices=('pth', 'diffusers'), default='pth', help='<name>-<hash>.pth, or a folder '
                        'that DiffusionPipeline.from_pretrained opens')
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--license', help='for the model card, as the Hugging Face Hub names it: apache-2.0, mit, ...')
    parser.add_argument('--push', metavar='OWNER/NAME', help='upload OUT to this repository of the Hugging Face Hub, '
                        'which is made if it is not there')
    parser.add_argument('--private', action='store_true', help='make the repository of --push a private one')
    parser.add_argument('--dry-run', action='store_true', help='of --push: write OUT, say what would be uploaded, and '
                        'upload nothing')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    args.shown_config = Path(args.config).name if Path(args.config).is_absolute() else args.config
    args.command = command(sys.argv[1:] if argv is None else argv, args)
    if args.push is None and (args.private or args.dry_run):
        parser.error('--private and --dry-run go with --push OWNER/NAME')
    if args.push is not None and not re.fullmatch(r'\w[\w.-]*/\w[\w.-]*', args.push):
        parser.error(f"--push: a repository of the Hub is OWNER/NAME, got '{args.push}'")
    args.name = args.name or Path(args.config).stem
    if not re.fullmatch(r'[\w][\w.-]*', args.name):
        parser.error(f"--name: letters, digits, '.', '_' and '-' only, got '{args.name}'")
    return args


def command(argv: list[str], args: argparse.Namespace) -> str:
    """The command as the model card shows it: without the folders of this machine."""
    names = {args.config: args.shown_config, **{word: Path(word).name for word in (args.checkpoint, args.out)}}
    return shlex.join(['slimdiff', 'publish', *(names.get(str(word), str(word)) for word in argv)])


def push(folder: Path, repository: str, private: bool, dry: bool) -> None:
    """Upload a folder to the Hub, or say what would be."""
    files = [file for file in sorted(folder.rglob('*')) if file.is_file()]
    size, names = sum(file.stat().st_size for file in files), (file.relative_to(folder).as_posix() for file in files)
    print(f'{"Would upload" if dry else "Uploading"} {len(files)} files, {size / 1e6:.1f} MB, to '
          f'https://huggingface.co/{repository} ({"private" if private else "public"} if it is new):\n'
          f'  {", ".join(names)}', flush=True)
    if not dry:
        from slimdiff.checkpoint.hub import upload
        print(f'Uploaded: {upload(folder, repository, private)}')


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Publish; returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args)

    from slimdiff.checkpoint import load_checkpoint
    from slimdiff.checkpoint.folders import atomic_folder, check_folder
    from slimdiff.export.folder import check_export_folder, export_pipeline
    from slimdiff.export.load import load_checked_weights
    from slimdiff.export.model_card import Facts, model_card, run_metrics
    from slimdiff.export.publish import CARD, published_checkpoint, published_names, sha256, write_published
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    out, source = Path(args.out), Path(args.checkpoint)
    out = (check_export_folder(out, {CARD}) if args.format == 'diffusers'
           else check_folder(out, published_names(out, args.name), 'OUT'))
    model = MODELS.build(serving_config(cfg.model))
    meta = load_checked_weights(model, source, args.weights, args.trust_config)
    model.eval()
    weights = meta.get('published', {}).get('weights', args.weights)
    averaged = args.weights == 'ema' or 'ema' in load_checkpoint(source)
    metrics, why = run_metrics(source, meta, weights, averaged)

    with atomic_folder(out) as folder:
        pipeline = None
        if args.format == 'diffusers':
            pipeline = export_pipeline(model, folder)
        else:
            write_published(published_checkpoint(model, cfg.model, meta, weights), folder, args.name)
        written = sorted(file for file in folder.rglob('*') if file.suffix in ('.pth', '.safetensors'))
        files = {file.relative_to(folder).as_posix(): sha256(file) for file in written}
        card = model_card(Facts(args.name, model, cfg.model, args.shown_config, meta, weights, files, pipeline, metrics,
                                args.license, args.push, args.command))
        (folder / CARD).write_text(card, encoding='utf-8')
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in written}
    for name, size in sizes.items():
        print(f'{out / name}: {size / 1e6:.1f} MB (the checkpoint has {source.stat().st_size / 1e6:.1f} MB)'
              if args.format == 'pth' else f'{out / name}: {size / 1e6:.1f} MB')
    print(f'{out / CARD}: the model card, {f"without measurements: {why}" if why else "with metrics.json of the run"}')
    if args.format == 'pth':
        print(f'Use it: slimdiff sample {args.config} {out / next(iter(files))}, or as teacher.checkpoint of a config')
    elif pipeline:
        print(f"Use it: import slimdiff; diffusers.DiffusionPipeline.from_pretrained('{out}')")
    if args.push:
        push(out, args.push, args.private, args.dry_run)
    return 0

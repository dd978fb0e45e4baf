"""``slimdiff browse_dataset CONFIG``: a picture of a dataset's images as the network gets them, with their classes."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimdiff.cli.common import add_config_arguments, load_checked_config, runs_cleanly

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

CAPTION = 14  # pixels below an image; the built-in font is 10 high
GAP = 4


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff browse_dataset',
        description='Draw images of a dataset as the network gets them (cropped, resized, augmented), each with the '
        'name of its class, or its number where there are no classes.')
    add_config_arguments(parser)
    parser.add_argument('--split', choices=('train', 'val', 'test'), default='train', help='which dataloader of it')
    parser.add_argument('-n', '--num', type=int, default=48, help='how many images')
    parser.add_argument('--start', type=int, default=0, help='index of the first')
    parser.add_argument('--columns', type=int, help='images in a row; default: 12, or about the square root of --num')
    parser.add_argument('--zoom', type=int, help='whole factor by which pixels are enlarged; default: to 64 or more')
    parser.add_argument('--out', default='dataset.png', help='picture to write')
    args = parser.parse_args(argv)
    for name, least in (('num', 1), ('start', 0), ('columns', 1), ('zoom', 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f'--{name} must be at least {least}, got {value}')
    if Path(args.out).suffix.lower() != '.png':
        parser.error(f"--out must end in .png, got '{args.out}'")
    return args


def fit_text(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """``text``, or as much of its beginning as is at most ``width`` pixels wide."""
    while text and draw.textlength(text) > width:
        text = text[:-1]
    return text


def draw_samples(samples: Sequence[dict], captions: Sequence[str], columns: int | None = None,
                 zoom: int | None = None) -> Image.Image:
    """Draw samples, ``dict(inputs=(1 or 3, H, W) in [-1, 1])`` of one size, in a grid with a caption below each."""
    from PIL import Image, ImageDraw

    from slimdiff.sampling.images import as_rgb, to_uint8
    height, width = samples[0]['inputs'].shape[1:]
    zoom = zoom or max(1, math.ceil(64 / width))
    columns = min(columns or max(12, math.ceil(math.sqrt(len(samples)))), len(samples))
    rows = math.ceil(len(samples) / columns)
    height, width = height * zoom, width * zoom
    picture = Image.new('RGB', (columns * (width + GAP) - GAP, rows * (height + CAPTION + GAP) - GAP), 'white')
    draw = ImageDraw.Draw(picture)
    for i, (sample, caption) in enumerate(zip(samples, captions)):
        left, top = i % columns * (width + GAP), i // columns * (height + CAPTION + GAP)
        pixels = to_uint8(as_rgb(sample['inputs'][None]))[0].permute(1, 2, 0).numpy()
        picture.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + height + 1), fit_text(draw, caption, width), fill='black')
    return picture


def caption_of(dataset: Any, k: int, sample: dict) -> str:
    """The class of a sample; its index where there are no classes."""
    if 'labels' not in sample:
        return str(k)
    classes, label = getattr(dataset, 'classes', None), int(sample['labels'])
    if not classes:
        return str(label)
    if not 0 <= label < len(classes):
        raise ValueError(f'Label out of range: image {k} has label {label}, but the dataset names {len(classes)} '
                         f'classes, so labels are 0 to {len(classes) - 1}.')
    return str(classes[label])


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Draw; returns the exit status."""
    args = parse(argv)
    cfg = load_checked_config(args, ())

    from slimdiff.registry import DATASETS
    loader = cfg.get(f'{args.split}_dataloader')
    if not loader:
        has = [split for split in ('train', 'val', 'test') if cfg.get(f'{split}_dataloader')]
        raise ValueError(f"{args.config} has no {args.split}_dataloader; --split may be {' or '.join(has) or 'none'}.")
    data = loader['dataset']
    if data.get('type') == 'LatentDataset':
        data = data.get('source')
        if not data:
            raise ValueError(f'The {args.split} set of {args.config} holds encoded latents, not pictures, and '
                             'does not say of which images (source=...).')
    dataset = DATASETS.build(data)
    end = min(args.start + args.num, len(dataset))
    if args.start >= end:
        raise ValueError(f'--start {args.start} is beyond the last index of the {args.split} set, {len(dataset) - 1}.')
    indices = range(args.start, end)
    samples = [dataset[k] for k in indices]
    captions = [caption_of(dataset, k, sample) for k, sample in zip(indices, samples)]
    picture = draw_samples(samples, captions, args.columns, args.zoom)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
    print(f'{len(samples)} of {len(dataset)} images of the {args.split} set in {out}')
    skipped = getattr(dataset, 'skipped', 0)
    if skipped:
        print(f'{skipped} unreadable: {", ".join(dataset.skipped_files)}')
    return 0

"""``tools/misc/model_zoo.py``: write the model zoo's pages and metafiles from configs, counts and measurements.

For a checkout: configs/*/README.md, configs/*/metafile.yml, model-index.yml and docs/en/model_zoo.md. Counts are kept
in benchmarks/results/model_zoo.json; measurements are what ``slimdiff benchmark`` wrote beside it as throughput_*.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from slimdiff.cli.common import runs_cleanly

COMMAND = 'python tools/misc/model_zoo.py'


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='model_zoo.py',
        description='Write configs/*/README.md, configs/*/metafile.yml, model-index.yml and docs/en/model_zoo.md of a '
        'checkout. Networks that have not been counted are, which takes up to a minute for a large one; Ctrl-C loses '
        'only the one at hand.')
    parser.add_argument('--check', action='store_true', help='write nothing: say what is out of date (exit status 1)')
    parser.add_argument('--recount', metavar='PATTERN', help='count these configs again, such as "*photo_patches*"; '
                        'with --check, compare')
    parser.add_argument('--root', type=Path, help='of the checkout (default: the one that slimdiff runs from)')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args(argv)


def checkout(given: Path | None) -> Path:
    import slimdiff
    root = (given or Path(slimdiff.__file__).parents[1]).resolve()
    if not (root / 'configs').is_dir():
        raise ValueError(f'{root} has no configs/: the model zoo is made in a checkout of slimdiff. Give --root DIR.')
    return root


@runs_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse(argv)
    from slimdiff.checkpoint import atomic_write
    from slimdiff.progress import Progress
    from studies.model_zoo import Counts, collect, generate, measurements
    from studies.model_zoo.entries import count
    root = checkout(args.root)
    entries, counts = collect(root), Counts(root / 'benchmarks/results/model_zoo.json')
    chosen = {e.digest: e for e in reversed(entries) if args.recount and fnmatch(e.path, args.recount)}
    if args.recount and not chosen:
        raise ValueError(f"--recount '{args.recount}' matches no config, such as {entries[0].path}.")
    missing = counts.missing(entries)
    stale = []
    if args.check:
        stale += [f'{e.path}: its network has not been counted' for e in missing]
        for digest, entry in chosen.items():
            before = {k: v for k, v in counts.known.get(digest, {}).items() if k != 'first_config'}
            if before and before != (now := count(entry)):
                stale.append(f'{entry.path}: its counts were {before} and are {now}')
    else:
        todo = list({e.digest: e for e in (*missing, *chosen.values())}.values())
        with Progress(len(todo), 'counting', unit='network', interval=0) as bar:
            for entry in todo:
                counts.add([entry])
                bar.update()
        counts.keep(entries)
    if not (args.check and missing):
        files = generate(entries, counts.known, measurements.read(root / 'benchmarks/results'))
        for path, text in files.items():
            file = root / path
            if file.exists() and file.read_text(encoding='utf-8') == text:
                continue
            if args.check:
                stale.append(f'{path}: {"is out of date" if file.exists() else "is missing"}')
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(file, lambda out, text=text: out.write(text.encode()))
                print(f'wrote {path}')
    if stale:
        print('\n'.join([*stale, f'Run `{COMMAND}`.']), file=sys.stderr)
        return 1
    if args.check:
        print(f'The model zoo is up to date: {len(entries)} configs, {len(counts.known)} networks.')
    return 0

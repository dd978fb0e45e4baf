"""``slimdiff slim`` by several recipes and seeds, each recipe with the iterations that fit into the same time.

    python benchmarks/bench_slim.py --iterations gated=1450 plain=1450 --random 0 1 2 \\
        --json benchmarks/results/slim_fashion_mnist.json
    python benchmarks/bench_slim.py --iterations pruned=1450 spectral=1070 --seeds 0 \\
        --json benchmarks/results/slim_fashion_mnist.json

A run is ``slimdiff slim``, in a folder of its own below ``--work-dir``: stopped, the same command goes on, and finished
runs are read. Figures that are in the file stay there. ``--random`` adds the first recipe without its start from the
teacher's channels.
"""

from __future__ import annotations

import argparse
import re
import statistics
from pathlib import Path
from typing import Any

from slimdiff.checkpoint import read_json, write_json
from slimdiff.cli.slim import main as slim
from slimdiff.tables import text_table

START = re.compile(r" start_from='[^']*',")
FIGURES = {'denoising error': lambda r: r['errors']['student']['denoise/total'],
           'top band, t < 100': lambda r: r['errors']['student']['denoise/t0-100/top'],
           'Frechet distance': lambda r: r['distances']['student'],
           'MACs': lambda r: r['sizes']['student']['macs']}


def run(args: argparse.Namespace, recipe: str, iterations: int, seed: int) -> dict[str, float]:
    """Figures of one student, trained unless it was."""
    random = recipe.endswith('-random')
    out = Path(args.work_dir) / f'{recipe}-{seed}'
    command = [args.teacher, '--data', args.data, '--macs', str(args.macs), '--recipe', recipe.removesuffix('-random'),
               '--iterations', str(iterations), '--seed', str(seed), '--out', str(out)]
    if random and not (out / 'student.py').is_file():
        if slim([*command, '--design-only']):
            raise SystemExit(f'{out}: failed')
        text = (out / 'student.py').read_text(encoding='utf-8')
        assert START.search(text), 'this student has no start from its teacher to be left out'
        (out / 'student.py').write_text(START.sub('', text), encoding='utf-8')
    if not (out / 'comparison.json').is_file() and slim(command):
        raise SystemExit(f'{out}: failed')
    record = read_json(out / 'comparison.json', 'Remove it.')
    return {name: of(record) for name, of in FIGURES.items()}


def summary(runs: dict[str, dict[int, dict[str, float]]]) -> list[tuple[str, ...]]:
    """A row for each recipe: mean and standard deviation over seeds, and in how many it beats the last."""
    last, rows = list(runs)[-1], []
    for recipe, seeds in runs.items():
        cells = []
        for name in FIGURES:
            values = [figures[name] for figures in seeds.values()]
            spread = f' ± {statistics.stdev(values):.2g}' if len(values) > 1 and name != 'MACs' else ''
            wins = [figures[name] < runs[last][seed][name] for seed, figures in seeds.items() if seed in runs[last]]
            better = '' if recipe == last or name == 'MACs' else f' ({sum(wins)} of {len(wins)})'
            cells.append(f'{statistics.mean(values):.4g}{spread}{better}')
        rows.append((recipe, str(len(seeds)), *cells))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--teacher', default='ldm/fashion_mnist')
    parser.add_argument('--data', default='FashionMNIST')
    parser.add_argument('--macs', type=float, default=0.08)
    parser.add_argument('--iterations', nargs='+', default=['gated=1450', 'plain=1450'], metavar='RECIPE=N')
    parser.add_argument('--seeds', nargs='*', type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument('--random', type=int, nargs='*', default=[], metavar='SEED', help='for these seeds')
    parser.add_argument('--work-dir', default='work_dirs/slim')
    parser.add_argument('--json', help='write all figures there')
    args = parser.parse_args()
    recipes: dict[str, Any] = {name: int(count) for name, _, count in (text.partition('=') for text in args.iterations)}
    first = next(iter(recipes))
    plan = {first: args.seeds} | ({f'{first}-random': args.random} if args.random else {})
    plan |= {recipe: args.seeds for recipe in list(recipes)[1:]}
    record = read_json(args.json, 'Remove it.') if args.json and Path(args.json).is_file() else {}
    of = dict(teacher=args.teacher, data=args.data, macs=args.macs)
    if any(record.get(key, value) != value for key, value in of.items()):
        raise SystemExit(f'{args.json} is of another teacher, data or MACs: give another file')
    runs = {recipe: {int(seed): figures for seed, figures in seeds.items()}
            for recipe, seeds in record.get('runs', {}).items()}
    for recipe, seeds in plan.items():
        for seed in seeds:
            runs.setdefault(recipe, {})[seed] = run(args, recipe, recipes[recipe.removesuffix('-random')], seed)
    if 'plain' in runs:  # the last one is what the others are compared with
        runs['plain'] = runs.pop('plain')
    print(text_table(('recipe', 'seeds', *FIGURES), summary(runs)))
    if args.json:
        write_json(args.json, dict(of, iterations={**record.get('iterations', {}), **recipes}, runs=runs))


if __name__ == '__main__':
    main()

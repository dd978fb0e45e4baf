"""``slimdiff compare_allocations CONFIG CHECKPOINT``: searched and plain step allocations against the full network.

Under each sampler every allocation draws the same images from the same noise; a table gives their quality, MACs and
seconds. Searches run first. Stop it with Ctrl-C and go on with the same command: searches and finished samplers are
kept in the work dir.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimdiff.cli.common import (
    add_checkpoint_argument,
    add_config_arguments,
    add_trust_argument,
    check_files,
    default_work_dir,
    load_checked_config,
    runs_cleanly,
)

if TYPE_CHECKING:
    from slimdiff.search import Outcome, Search

#: where the figures go, in the work dir
FILE = 'comparison.json'
#: seed of the images by which fronts are judged
FRESH = 1_000_003
#: MACs of searched, prefix and random allocations, unless the command line says otherwise
BUDGET = 0.5


def named(text: str) -> tuple[str, str]:
    """``NAME=FILE``, or a file that gives its own name; a file that is there may hold a ``=``."""
    if Path(text).exists():
        return Path(text).stem, text
    name, _, file = text.partition('=')
    if not (file and Path(file).exists()):
        name, _, file = text.rpartition('=')
    return name or Path(text).stem, file


def sampler_of(text: str) -> tuple[str, int]:
    """``DDIMScheduler:50`` as a type and a number of steps."""
    name, _, steps = text.partition(':')
    if not steps.isdigit() or int(steps) < 1:
        raise argparse.ArgumentTypeError(f"expected SCHEDULER:STEPS such as DDIMScheduler:50, got '{text}'")
    return name, int(steps)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='slimdiff compare_allocations', description='Compare step allocations of a slimmable model with its full '
        'network: quality, MACs and seconds, at equal noise. Uniform widths, a prefix of narrow steps (T-Stitch) and '
        'a random allocation are always among them.')
    add_config_arguments(parser)
    add_checkpoint_argument(parser)
    parser.add_argument('--allocations', nargs='+', default=[], type=named, metavar='[NAME=]FILE',
                        help='allocation.json of searches')
    parser.add_argument('--searches', nargs='+', default=[], type=named, metavar='[NAME=]CONFIG',
                        help="configs whose 'search' is run first; its allocation for the budget is compared, and the "
                        'fronts with one another')
    parser.add_argument('--against', nargs='+', default=[], type=named, metavar='[NAME=]MODEL',
                        help='other models of the same images, such as the teacher: a .pth of train, an exported '
                        'folder, or the name of a model that ships with slimdiff')
    parser.add_argument('--samplers', nargs='+', type=sampler_of, metavar='SCHEDULER:STEPS',
                        help="diffusers schedulers and steps (default: the config's own)")
    parser.add_argument('--budget', type=float, default=BUDGET, help='MACs of searched, prefix and random allocations, '
                        "as a fraction of the full network's (default: %(default)s)")
    parser.add_argument('--num-images', type=int, default=1000, help='generated under each allocation and sampler '
                        '(default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0, help='of the noise, and of the random allocation')
    parser.add_argument('--weights', choices=('ema', 'online'), default='ema')
    parser.add_argument('--work-dir', help='searches and results (default: work_dirs/<...>/allocations)')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    for name in ('num_images', 'batch_size'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    if not 0 < args.budget < 1:
        parser.error(f'--budget must lie between 0 and 1, got {args.budget}')
    names = [name for name, _ in (*args.allocations, *args.searches, *args.against)]
    for name in names:
        if names.count(name) > 1:
            parser.error(f"two of --allocations, --searches and --against are called '{name}'; give one of them "
                         'another name, as NAME=FILE')
    return args


def set_metrics(cfg: Any) -> list[Any]:
    """The config's metrics of image sets, built.

    Raises:
        ValueError: it has none.
    """
    from slimdiff.evaluation.evaluate import build_metrics
    from slimdiff.evaluation.metrics.base import SetMetric
    found = [metric for metric in build_metrics(cfg.get('val_evaluator') or []) if isinstance(metric, SetMetric)]
    if not found or cfg.get('val_dataloader') is None:
        raise ValueError('compare_allocations needs real images to compare with: a config with a val_dataloader and a '
                         'val_evaluator that compares sets of images, such as FrechetDistance.')
    return found


def run_search(args: argparse.Namespace, model: Any, loader: Any, name: str, file: str,
               work_dir: Path) -> tuple[Search, Outcome]:
    """Run (or finish, or read) one search, and write its report."""
    from slimdiff.arguments import plain
    from slimdiff.search import Search
    from slimdiff.search.report import plot_search, write_report
    config = plain(load_checked_config(argparse.Namespace(config=file, cfg_options=None), ['search']).search)
    print(f'search {name}:', flush=True)
    search = Search(model, config, work_dir / 'searches' / name, loader, {'fraction': args.budget})
    finished, chosen = search.searcher.done, search.work_dir / 'allocation.json'
    before = chosen.read_bytes() if chosen.is_file() else None  # of another budget, it may be
    outcome = search.run()
    if not finished or before != chosen.read_bytes() or not (search.work_dir / 'report.html').is_file():
        plot_search(search, search.work_dir / 'front.png')
        write_report(search, outcome, search.work_dir / 'report.html', title=f'Search: {name}')
    print(outcome.describe(), flush=True)
    return search, outcome


def fresh_judges(cfg: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What judges the fronts of all searches: both kinds of quality, with noise that no search has seen."""
    from slimdiff.arguments import plain
    from slimdiff.evaluation.metrics.base import SetMetric
    from slimdiff.registry import METRICS
    from slimdiff.search import DivergenceEvaluator, FrechetEvaluator
    metric = next(config for config in plain(cfg.val_evaluator)
                  if issubclass(METRICS.get(config['type']), SetMetric))
    settings = dict(num_images=args.num_images, batch_size=args.batch_size, seed=FRESH)
    return {'divergence': DivergenceEvaluator(**settings),
            metric['type']: FrechetEvaluator(metric, num_real=(cfg.get('val_cfg') or {}).get('num_real'), **settings)}


class Results:
    """``comparison.json``: what is there already, and what comes.

    Args:
        path: of the file.
        identity: what the figures depend on; a file of another identity is refused.

    Raises:
        ValueError: the file holds another comparison.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        from slimdiff.checkpoint import read_json
        from slimdiff.checkpoint.same import as_json, require_same
        self.path = path
        self.content: dict[str, Any] = dict(version=1, identity=as_json(identity), samplers={})
        if not path.is_file():
            return
        advice = 'Choose another --work-dir, or remove that file.'
        before = read_json(path, advice)
        if not all(isinstance(before.get(key), dict) for key in ('identity', 'samplers')):
            raise ValueError(f'{path} is no comparison of allocations. {advice}')
        require_same(before['identity'], self.content['identity'], f'{path} holds another comparison', advice)
        self.content = before

    def kept(self, sampler: str, what: dict[str, Any]) -> dict[str, Any]:
        """The rows of a sampler that are there already and are of the same allocations or networks as ``what`` says."""
        rows = self.content['samplers'].get(sampler, {})
        return {rival: row for rival, row in rows.items() if rival in what and row.get('of') == what[rival]}

    def add(self, **content: Any) -> None:
        """Merge and write."""
        from slimdiff.checkpoint import write_json
        samplers = {**self.content['samplers'], **content.pop('samplers', {})}
        self.content |= {**content, 'samplers': samplers}
        write_json(self.path, self.content)


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Compare; prints a table for each sampler and returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = parse(argv)
    for _, file in args.searches:
        check_files(argparse.Namespace(config=file))
    for _, file in args.allocations:
        check_files(argparse.Namespace(config=args.config, allocation=file))
    cfg = load_checked_config(args)

    from slimdiff.api import load
    from slimdiff.arguments import plain
    from slimdiff.checkpoint.tensor_store import content_key
    from slimdiff.cli.sample import build_model
    from slimdiff.datasets import build_dataloader
    from slimdiff.datasets.fingerprint import dataset_fingerprint
    from slimdiff.evaluation.common import check_classes, locked
    from slimdiff.evaluation.record import provenance, rounded
    from slimdiff.export.folder import model_of
    from slimdiff.models.backbones.protocol import Slimmable, require, runs_of
    from slimdiff.models.serving import sampling_identity
    from slimdiff.sampling import Reuse, StepAllocation
    from slimdiff.sampling.denoise import timesteps_of
    from slimdiff.search import count_macs
    from slimdiff.search.comparison import Rival, baselines, compare, judge_fronts
    from slimdiff.search.comparison.compare import FULL
    from slimdiff.search.comparison.rivals import merged
    from slimdiff.search.comparison.tables import comparison_table

    metrics = set_metrics(cfg)
    model = build_model(cfg, args.checkpoint, args.weights, trust_config=args.trust_config)
    require(model.unet, Slimmable, 'A comparison of widths', 'give a model of several widths')
    runs = runs_of(model.unet)
    loader = build_dataloader(cfg.val_dataloader)
    check_classes(model, loader.dataset)
    samplers = args.samplers or [(type(model.sampler).__name__, model.num_steps)]
    given = {name: StepAllocation.load(file) for name, file in args.allocations}
    others = {name: model_of(load(source)) for name, source in args.against}
    for one in (model, *others.values()):
        for name, steps in samplers:
            one.sampler_of(dict(type=name), steps)  # its errors come before the searches
    work_dir = Path(args.work_dir or default_work_dir(args.config) / 'allocations')

    with locked(work_dir, 'comparing allocations'):
        searches, outcomes = [], {}
        for name, file in args.searches:
            search, outcome = run_search(args, model, loader, name, file, work_dir)
            searches.append(search)
            outcomes[name] = outcome
        # The budget is meant for the sampler of the searches; without any, for the first one.
        timesteps = searches[0].problem.timesteps if searches else timesteps_of(
            model.sampler_of(dict(type=samplers[0][0]), samplers[0][1]), samplers[0][1])
        # Of everything that a search or a file may use: spaces differ.
        used = [s.action for a in (*given.values(), *(a for o in outcomes.values() for a, _ in o.front))
                for s in a.segments]
        costs = count_macs(model, runs, features=Reuse('features') in used)
        total, process = model.num_train_timesteps, model.noise_process.name
        allocations = merged({FULL: StepAllocation.uniform(runs[-1], total, process)},
                             baselines(costs, timesteps, total, args.budget, args.seed, process), given,
                             {name: outcome.chosen[0] for name, outcome in outcomes.items()})
        num_real = (cfg.get('val_cfg') or {}).get('num_real')
        results = Results(work_dir / FILE, dict(
            model=sampling_identity(model), metrics=plain(cfg.val_evaluator), data=dataset_fingerprint(loader.dataset),
            num_images=args.num_images, num_real=num_real, seed=args.seed))
        results.add(**provenance('compare_allocations.py', argv), config=args.config, num_images=args.num_images,
                    budget=args.budget)
        fronts = {name: content_key(str([allocation.to_dict() for allocation, _ in outcome.front])).hex()
                  for name, outcome in outcomes.items()}
        if outcomes and results.content.get('fronts') != fronts:
            judges = fresh_judges(cfg, args) if len(outcomes) > 1 else {}  # a single front is not compared
            results.add(searches=rounded(judge_fronts(
                outcomes, dataclasses.replace(searches[0].problem, costs=costs), judges)), fronts=fronts)

        dense = {name: Rival.dense(other) for name, other in others.items()}
        rivals = merged(Rival.under(model, costs, allocations), dense)
        what = {name: allocation.to_dict() for name, allocation in allocations.items()}
        what |= {name: sampling_identity(other) for name, other in others.items()}
        for name, steps in samplers:
            key = f'{name}:{steps}'
            kept = results.kept(key, what)
            if len(kept) < len(rivals):
                # What is there stays; the full network runs again beside what is new: their seconds are compared.
                lacking = {rival: rivals[rival] for rival in rivals if rival == FULL or rival not in kept}
                found = compare(lacking, dict(type=name), steps, metrics, loader, args.num_images, num_real,
                                args.batch_size, args.seed, name=key)
                rows = {rival: {'of': what[rival], **rounded(row)} for rival, row in found.items()} | kept
                results.add(samplers={key: {rival: rows[rival] for rival in rivals}})
            print(f'\n{key}, {args.num_images} images\n\n{comparison_table(results.content, key)}', flush=True)
        print(f'wrote {results.path}')
    return 0

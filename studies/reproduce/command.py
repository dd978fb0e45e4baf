"""``tools/analysis_tools/reproduce.py EXPERIMENT``: train an experiment's runs, and write its table and figure."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimdiff.cli.common import runs_cleanly

if TYPE_CHECKING:
    from studies.reproduce.experiment import Arm, Experiment
    from studies.reproduce.plan import Planned
    from studies.reproduce.work_dirs import StudyRun


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='reproduce.py',
        description='Train what an experiment still lacks, seed by seed, and write its table and figure. Stop it with '
        'Ctrl-C and go on with the same command, also on another machine: finished runs are the JSON files in '
        '--results. Exit status: 0 all runs have results, 1 some failed or were left out, 130 stopped.')
    parser.add_argument('experiment', nargs='?', help='name of one (without: they are listed), or a .json file')
    parser.add_argument('--work-dir', default='work_dirs/reproduce', help='where runs train (default: %(default)s)')
    parser.add_argument('--results', default='benchmarks/results/reproduce',
                        help='where results are kept (default: %(default)s)')
    parser.add_argument('--docs', default='docs/en',
                        help='the table goes to DOCS/experiments/_generated, the figure to DOCS/_static '
                        '(default: %(default)s)')
    parser.add_argument('--jobs', type=int, metavar='N', help='runs side by side (default: the cores); each gets '
                        'cores / N threads')
    parser.add_argument('--seeds', type=int, nargs='+', metavar='K', help='only these seeds')
    parser.add_argument('--arms', nargs='+', metavar='NAME', help='only these arms')
    parser.add_argument('--list', action='store_true', help='show the state of every run, and do nothing')
    parser.add_argument('--report-only', action='store_true', help='train nothing: write the report of what is there')
    parser.add_argument('--adopt', metavar='DIR', help='take over DIR/<arm>-seed<k>, trained by hand with the same '
                        'config, finished or not')
    parser.add_argument('--teacher-cache', metavar='DIR', help="keep teachers' answers here: distilled runs of the "
                        'same seed ask only once (gigabytes; remove it afterwards)')
    parser.add_argument('--redo', action='store_true', help='make results again whose config has changed since')
    parser.add_argument('--debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        parser.error(f'--jobs must be at least 1, got {args.jobs}')
    return args


def resolve(arguments: Sequence[str]) -> Mapping[str, Any]:
    """The config that ``slimdiff train`` would train with these arguments."""
    from slimdiff.cli import train
    return train.training_config(train.parse(list(arguments))).to_dict()


def cost_of(config: Mapping[str, Any]) -> dict[str, int]:
    """Parameters and MACs of what a config serves."""
    from slimdiff.evaluation.unet_cost import unet_cost
    from slimdiff.registry import MODELS
    serving = MODELS.get(config['model']['type']).serving_config(config['model'])
    cost = unet_cost(MODELS.build(serving))
    return dict(params=cost.params, macs_published=cost.conv_linear_macs, macs_with_attention=cost.macs_with_attention)


class Collector:
    """Write the result of a finished run.

    Args:
        experiment: its name.
        threads: of each training process.
    """

    def __init__(self, experiment: str, threads: int) -> None:
        self.experiment, self.threads = experiment, threads
        self._costs: dict[str, dict[str, int]] = {}

    def __call__(self, run: StudyRun, seconds: float | None = None, by_queue: bool = True) -> None:
        """Read the run's ``metrics.json``.

        Raises:
            ValueError: it is not there, or that of another run.
        """
        from slimdiff.checkpoint import write_json
        from studies.reproduce.results import provenance, run_result
        found = run_result(run.work_dir, run.resolved, run.seed, run.max_iters)
        if found is None:
            raise ValueError(f'{run.name} ended, but {run.work_dir}/metrics.json does not hold its '
                             f'{run.max_iters} iterations: does its config have a ReportHook and a validation at the '
                             'end?')
        if run.arm.name not in self._costs:
            self._costs[run.arm.name] = cost_of(resolve(run.arguments()))
        where = provenance(self.threads if by_queue else None)
        if not by_queue:
            where['commit'] = None  # trained before, nobody noted with which
        # Not the work dir of this machine: the command is to be read, and repeated, elsewhere.
        work_dir = Path('work_dirs/reproduce', self.experiment, run.name)
        command = shlex.join(['python', 'tools/train.py', *run.arm.arguments(run.seed, work_dir)])
        head = dict(experiment=self.experiment, arm=run.arm.name, seed=run.seed, label=run.arm.title,
                    config=run.arm.config, options=dict(run.arm.options), flags=list(run.arm.flags), command=command,
                    adopted=run.adopted)
        write_json(run.result, {**head, **where, 'cost': self._costs[run.arm.name], **found})


def measure_floor(experiment: Experiment, path: Path, splits: int = 4) -> None:
    """Write what real images give in place of generated ones, with the baseline's data and metrics."""
    from slimdiff.checkpoint import write_json
    from slimdiff.datasets import build_dataloader
    from slimdiff.evaluation import noise_floor
    from studies.reproduce.fingerprint import relevant
    from studies.reproduce.results import provenance
    config = resolve(experiment.arm(experiment.baseline).arguments(0, 'unused'))
    settings = {key: config['val_cfg'][key] for key in ('num_images', 'num_real') if key in config['val_cfg']}
    floor = noise_floor(build_dataloader(config['val_dataloader'], seed=0), config['val_evaluator'], splits=splits,
                        **settings)
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
    resolved = {key: value for key, value in relevant(config).items() if key.startswith('val_')}
    write_json(path, dict(what=f'real images against other real ones, {splits} random partings', date=date,
                          **provenance(None), floor=floor, resolved=resolved))


def show_list(planned: Sequence[Planned]) -> None:
    width = max(len(p.run.name) for p in planned)
    for p in planned:
        seconds = f'{p.result["train_seconds"]:.0f} s' if p.result else ''
        print(f'{p.run.name:{width}}  {p.state:8} {seconds:>7}  {p.why or p.run.arm.config}'.rstrip())


def train_missing(experiment: Experiment, planned: Sequence[Planned], args: argparse.Namespace) -> tuple[bool, bool]:
    """Collect and train; returns whether all went well, and whether it was stopped."""
    from studies.reproduce.plan import TO_TRAIN
    from studies.reproduce.queue import available_cores, work
    jobs = args.jobs or available_cores()
    collect = Collector(experiment.name, max(1, available_cores() // jobs))
    for p in planned:
        if p.state == 'collect':
            collect(p.run, by_queue=False)
            print(f'{p.run.name}: collected from {p.run.work_dir}')
        elif p.why:
            print(f'{p.run.name}: {p.state}: {p.why}')
    for p in planned:
        p.run.teacher_cache = args.teacher_cache and Path(args.teacher_cache)
    try:
        failed = work([p.run for p in planned if p.state in TO_TRAIN], jobs, collect)
    except KeyboardInterrupt:
        return False, True
    if failed:
        print(f'Failed (see above): {", ".join(failed)}', file=sys.stderr)
    left = [p.run.name for p in planned if p.state in ('stale', 'blocked')]
    if left:
        print(f'Left as they are: {", ".join(left)}', file=sys.stderr)
    return not failed and not left, False


def compare_missing(experiment: Experiment, planned: Sequence[Planned], runs: Sequence[tuple[Arm, int]],
                    args: argparse.Namespace) -> tuple[bool, bool]:
    """Follow up those of ``runs`` that are trained; returns whether all went well, and whether it was stopped."""
    from studies.reproduce.follow_up import Comparison, to_compare
    from studies.reproduce.queue import available_cores, work
    lacking = to_compare(experiment, planned, runs)
    if not lacking:
        return True, False
    try:
        failed = work(lacking, args.jobs or available_cores(), lambda run, seconds: run.collect(experiment.name),
                      Comparison.command)
    except KeyboardInterrupt:
        return False, True
    return not failed, False


def report_on(experiment: Experiment, planned: Sequence[Planned], args: argparse.Namespace) -> None:
    """Write the report of the results that there are."""
    from studies.reproduce.follow_up import comparisons_of
    from studies.reproduce.report import write_report
    found: dict[str, dict[int, dict[str, Any]]] = {arm.name: {} for arm in experiment.arms}
    for p in planned:
        if p.result is not None:
            found[p.run.arm.name][p.run.seed] = p.result
    stale = {p.run.name: p.why for p in planned if p.state == 'stale'}
    paths = write_report(experiment, found, stale, args.results, args.docs, comparisons_of(experiment, planned))
    done = sum(map(len, found.values()))
    print(f'{done} of {len(planned)} runs have results' + (f', {len(stale)} of them stale' if stale else '')
          + f'. Written: {", ".join(str(path) for path in paths if path)}')


@runs_cleanly
def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse_args(argv)
    from studies.reproduce.experiments import find_experiment, known_experiments
    if args.experiment is None:
        for experiment in known_experiments().values():
            print(f'{experiment.name:14} {len(experiment.runs()):3} runs  {experiment.title}')
        return 0
    from studies.reproduce.fingerprint import relevant
    from studies.reproduce.plan import plan
    from studies.reproduce.results import FLOOR

    experiment = find_experiment(args.experiment)
    runs = experiment.runs(args.arms, args.seeds)
    if not runs:
        raise ValueError(f'{experiment.name} has no run with --seeds {" ".join(map(str, args.seeds))} in these arms. '
                         f'Seeds: {dict((arm.name, list(arm.seeds)) for arm in experiment.arms)}.')
    results, work_dir = Path(args.results), Path(args.work_dir)
    planned = plan(experiment, runs, results, work_dir, resolve, relevant, args.adopt and Path(args.adopt), args.redo)
    if args.list:
        show_list(planned)
        return 0
    well, stopped = True, False
    if not args.report_only:
        counts = Counter(p.state for p in planned)
        print(f'{experiment.name}: ' + ', '.join(f'{number} {state}' for state, number in counts.items()), flush=True)
        floor = results / experiment.name / FLOOR
        if experiment.floor and not floor.is_file():
            measure_floor(experiment, floor)
        well, stopped = train_missing(experiment, planned, args)
    # Of all arms and seeds, whatever was asked for now.
    planned = plan(experiment, experiment.runs(), results, work_dir, resolve, relevant)
    if well and not stopped and not args.report_only:
        well, stopped = compare_missing(experiment, planned, runs, args)
    report_on(experiment, planned, args)
    if stopped:
        print(f'\nStopped; every run has saved its state. Go on with the same command:\n    '
              f'{shlex.join(["python", "tools/analysis_tools/reproduce.py", *(argv or sys.argv[1:])])}',
              file=sys.stderr)
        return 130
    return 0 if well else 1

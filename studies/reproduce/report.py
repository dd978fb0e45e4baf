"""The report of an experiment, complete or not: a page's tables and its figure, from the results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.reproduce import tables
from studies.reproduce.experiment import Experiment
from studies.reproduce.figures import draw
from studies.reproduce.results import FLOOR
from studies.step_aware.figures import plot_comparisons
from studies.step_aware.tables import section


def write_report(experiment: Experiment, results: tables.Results, stale: Mapping[str, str], folder: str | Path,
                 docs: str | Path,
                 comparisons: Mapping[str, Sequence[Mapping[str, Any]]] | None = None) -> tuple[Path, Path | None]:
    """Write ``DOCS/experiments/_generated/<name>.md`` and ``DOCS/_static/<name>.png``.

    Args:
        results: arm -> seed -> result.
        stale: run name -> how the config that made its result differs from the present one.
        comparisons: arm -> what followed its training, by seed.
        folder: of the results; the real-against-real floor is read from there.

    Returns:
        Both paths; no figure without any result.
    """
    page = Path(docs, 'experiments', '_generated', f'{experiment.name}.md')
    figure = Path(docs, '_static', f'{experiment.name}.png')
    floor_file = Path(folder, experiment.name, FLOOR)
    floor = json.loads(floor_file.read_text(encoding='utf-8'))['floor'] if floor_file.is_file() else {}
    page.parent.mkdir(parents=True, exist_ok=True)
    any_result = any(results.values())
    if any_result:
        draw(experiment, results, floor, figure)
    text = markdown(experiment, results, floor, stale)
    for arm, found in (comparisons or {}).items():
        text += f'\n## Allocations: {experiment.arm(arm).title}\n\n{section(found)}'
        if found:
            picture = Path(docs, '_static', f'{experiment.name}_{arm}.png')
            plot_comparisons(found, picture)
            text += f'\n![Quality against MACs](../../_static/{picture.name})\n'
    page.write_text(text, encoding='utf-8')
    return page, figure if any_result else None


def markdown(experiment: Experiment, results: tables.Results, floor: Mapping[str, Any],
             stale: Mapping[str, str]) -> str:
    """The generated part of the page."""
    runs = [run for seeds in results.values() for run in seeds.values()]
    parts = [header(experiment, runs)]
    if not runs:
        return '\n\n'.join(parts) + '\n'
    parts.append(f'![{experiment.title}](../../_static/{experiment.name}.png)')
    parts.append(tables.main_table(experiment, results, floor, stale))
    parts.append('± is the sample standard deviation over training seeds. MACs: convolutions and linear layers.'
                 + (' Real against real: over random partings of real images.' if floor else ''))
    if found := tables.paired_table(experiment, results, stale):
        base = experiment.arm(experiment.baseline).title
        parts.append(f'Difference from **{base}** over common seeds: mean (relative) [95 % confidence interval], '
                     'two-sided paired t-test.\n\n' + found)
        parts.append(caution(experiment, results))
    if experiment.report == 'profile' and (found := tables.profile_table(experiment, results)):
        parts.append('Denoising error by noise level and band, with differences as above.\n\n' + found)
    if stale:
        lines = ''.join(f'\n- {name}: {why}' for name, why in stale.items())
        parts.append('† Made with another config than the present one; `--redo` makes them again:' + lines)
    return '\n\n'.join(part.rstrip('\n') for part in parts) + '\n'


def header(experiment: Experiment, runs: Sequence[Mapping[str, Any]]) -> str:
    """By which command, how many runs, and where."""
    total = len(experiment.runs())
    command = f'`python tools/analysis_tools/reproduce.py {experiment.name}`'
    if not runs:
        return f'*{command} has not been run yet: 0 of {total} runs.*'
    machines = sorted({_machine(run['machine']) for run in runs})
    versions = sorted({f'slimdiff {run["versions"]["slimdiff"]}, PyTorch {run["versions"]["torch"]}' for run in runs})
    hours = sum(run['train_seconds'] for run in runs) / 3600
    state = f'all {total} runs' if len(runs) == total else f'**{len(runs)} of {total} runs: this is incomplete**'
    return (f'*Written by {command} from {state}, {hours:.1f} hours of training in all, on {"; ".join(machines)}; '
            f'{"; ".join(versions)}.*')


def _machine(machine: Mapping[str, Any]) -> str:
    return machine.get('gpu') or f'{machine["cpu"]}, {machine["cores"]} cores'


def caution(experiment: Experiment, results: tables.Results) -> str:
    """What the tests cannot say."""
    base = set(results.get(experiment.baseline, {}))
    pairs = {arm.title: len(base & set(results.get(arm.name, {})))
             for arm in experiment.arms if arm.name != experiment.baseline}
    few = [name for name, n in pairs.items() if n == 2]
    single = [name for name, n in pairs.items() if n == 1]
    tests = sum(n > 1 for n in pairs.values()) * len(experiment.columns)
    text = f'The p-values are not corrected for the number of comparisons ({tests} here).' if tests else ''
    if few:
        text += (f' With two pairs ({", ".join(few)}) the test has one degree of freedom: its p-value is nearly '
                 'meaningless, and its interval is wide whatever is true.')
    if single:
        text += f' One pair ({", ".join(single)}) allows no test.'
    return text.strip()

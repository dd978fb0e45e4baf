"""Several training runs in one table: mean and spread over the seeds of each config."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def load_reports(work_dirs: Sequence[str | Path]) -> dict[str, list[dict[str, Any]]]:
    """Read ``metrics.json`` of each work dir, grouped by config (``sd/photo_patches``), in the order given.

    Raises:
        ValueError: a work dir without a report, or two runs of one config and seed.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for work_dir in work_dirs:
        path = Path(work_dir) / 'metrics.json'
        if not path.is_file():
            raise ValueError(f'{path} does not exist: the run has not ended, or its config has no ReportHook.')
        report = json.loads(path.read_text(encoding='utf-8'))
        config = Path(report['config']).with_suffix('')
        name = '/'.join(config.parts[-2:])
        if any(other['seed'] == report['seed'] for other in groups.get(name, [])):
            raise ValueError(f"{work_dir}: there is another run of {name} with seed {report['seed']}; give each once.")
        groups.setdefault(name, []).append(report)
    return groups


def summarise(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and sample standard deviation where there are two or more."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def comparison(groups: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str]) -> dict[str, Any]:
    """``{config: {metric: {mean, std, values}, iterations, seeds}, ...}``, with ``real_against_real`` beside them.

    Raises:
        ValueError: a metric that a report lacks (lists those it has).
    """
    result: dict[str, Any] = {}
    for name, reports in groups.items():
        row: dict[str, Any] = dict(iterations=reports[0]['iterations'], seeds=[r['seed'] for r in reports])
        for metric in metrics:
            if any(metric not in r['final'] for r in reports):
                raise ValueError(f"{name} has no '{metric}'. It has: {', '.join(reports[0]['final'])}.")
            values = [r['final'][metric] for r in reports]
            mean, std = summarise(values)
            row[metric] = dict(mean=mean, std=std, values=values)
        result[name] = row
    first = next(iter(groups.values()))[0]
    result['real_against_real'] = {m: first['real_against_real'].get(m) for m in metrics}
    return result


def markdown(result: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """The comparison as a Markdown table; ± is the standard deviation over seeds."""

    def cell(entry: Mapping[str, Any]) -> str:
        return f'{entry["mean"]:.4g}' + ('' if entry['std'] is None else f' ± {entry["std"]:.2g}')

    lines = ['| config | iterations | seeds | ' + ' | '.join(f'`{m}`' for m in metrics) + ' |',
             '|---|---|---|' + '---|' * len(metrics)]
    for name, row in result.items():
        if name == 'real_against_real':
            values = ['-' if row[m] is None else f'{row[m]:.4g}' for m in metrics]
            lines.append('| real against real | | | ' + ' | '.join(values) + ' |')
        else:
            lines.append(f'| `{name}` | {row["iterations"]} | {len(row["seeds"])} | '
                         + ' | '.join(cell(row[m]) for m in metrics) + ' |')
    return '\n'.join(lines) + '\n'

"""What a run arrived at, next to the untrained network and to what real images give."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from slimdiff.checkpoint import find_path, read_json, write_json
from slimdiff.engine.hooks.train_log import iterations_done
from slimdiff.registry import HOOKS
from slimdiff.tables import text_table

_FLOOR = 'floor/'


def split_floor(metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the model, and the real-against-real floor by the same names."""
    floor = {name.removeprefix(_FLOOR): value for name, value in metrics.items() if name.startswith(_FLOOR)}
    return {name: value for name, value in metrics.items() if not name.startswith(_FLOOR)}, floor


def report_table(final: Mapping[str, float], untrained: Mapping[str, float], floor: Mapping[str, float],
                 iterations: int, beside: Mapping[str, Mapping[str, float]] = {},
                 names: Sequence[str] | None = None) -> str:
    """One aligned table, a metric a row; what is unknown is a dash.

    Args:
        beside: name of another run -> its figures.
        names: of the rows; all by default.

    What a metric calls ``<name>_stderr`` stands behind ``<name>``, and what ``EvaluationLoop`` measured in a variant
    of the model, ``width0.5/<name>``, in a column of its own.
    """

    def show(figures: Mapping[str, float], name: str, spread: str) -> str:
        text = f'{figures[name]:.4g}' if name in figures else '-'
        return f'{text} ± {figures[name + spread]:.2g}' if name + spread in figures else text

    variants: dict[str, dict[str, float]] = {}
    for name, value in final.items():
        prefix, _, rest = name.partition('/')
        variant, name = (prefix, rest) if rest in final else ('', name)
        variants.setdefault(variant, {})[name] = value
    full = variants.pop('', {})
    others = {**variants, **beside}
    floor = {name.removesuffix('/real'): value for name, value in full.items() if name.endswith('/real')} | {**floor}
    listed = [name for name in full if name.removesuffix('_stderr') not in full.keys() - {name}]
    listed = listed if names is None else [name for name in names if name in full]
    columns = {'untrained': (untrained, '_stderr'), f'after {iterations} it': (full, '_stderr'),
               **{name: (figures, '_stderr') for name, figures in others.items()}, 'real against real': (floor, '_std')}
    # What was not measured has no column.
    columns = {title: column for title, column in columns.items() if column[0]}
    return text_table(('metric', *columns), [(name, *(show(figures, name, spread) for figures, spread
                                                     in columns.values())) for name in listed])


def _final_figures(path: str) -> dict[str, float]:
    """The figures in a ``metrics.json``."""
    found = find_path(path)
    if found is None:
        raise ValueError(f"ReportHook: beside names '{path}', which is not there. Give the metrics.json of a run.")
    figures = read_json(found, 'Give the metrics.json of a run.').get('final')
    if not isinstance(figures, Mapping):
        raise ValueError(f"ReportHook: {path} is not the metrics.json of a run: it has no 'final'.")
    return dict(figures)


@HOOKS.register_module()
class ReportHook(Hook):
    """At the end of training print a table of the metrics and write ``metrics.json`` into the work dir.

    The loop's ``val_before_train=True`` measures the untrained network, the evaluation loop's ``floor_splits`` real
    images against real ones; without them the table lacks these columns. All validations are kept, through resumes too.

    Args:
        names: of the figures in the printed table; all by default. ``metrics.json`` has all.
        beside: other runs to compare with, name of the column -> their ``metrics.json``; one of those in ``configs`` is
            found from any folder.

    Raises:
        ValueError: a file of ``beside`` that is not there, or is not a ``metrics.json``.
    """

    # After the evaluation of the last iteration and everything else.
    priority = 'LOWEST'

    def __init__(self, names: Sequence[str] | None = None, beside: Mapping[str, str] | None = None) -> None:
        self.names = names
        self.beside = {name: _final_figures(path) for name, path in (beside or {}).items()}
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0

    def before_train(self, runner: Any) -> None:
        self._start = time.monotonic()

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        done = iterations_done(runner)
        # A validation that is made up for after a resume replaces its first try.
        self.history = [entry for entry in self.history if entry['iter'] != done]
        self.history.append(dict(iter=done, metrics={k: float(v) for k, v in (metrics or {}).items()}))

    def after_train(self, runner: Any) -> None:
        if not is_main_process() or not self.history:
            return
        last = self.history[-1]
        final, floor = split_floor(last['metrics'])
        untrained = split_floor(next((e['metrics'] for e in self.history if e['iter'] == 0), {}))[0]
        seconds = self.seconds + time.monotonic() - self._start
        runner.logger.info('Metrics\n' + report_table(final, untrained, floor, last['iter'], self.beside,
                                                      self.names))
        report = dict(config=str(runner.cfg.filename or ''), iterations=runner.iter, seed=runner.seed,
                      train_seconds=round(seconds, 1), final=final, untrained=untrained, real_against_real=floor,
                      history=self.history)
        path = Path(runner.work_dir) / 'metrics.json'
        write_json(path, report)
        runner.logger.info(f'Wrote {path}')

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint['report'] = dict(history=self.history, seconds=self.seconds + time.monotonic() - self._start)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        report = checkpoint.get('report', {})
        self.history, self.seconds = list(report.get('history', [])), report.get('seconds', 0.0)

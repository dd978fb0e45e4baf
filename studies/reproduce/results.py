"""One small JSON file for each finished run: what a report is made of, on this machine or on another, days later."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from slimdiff.evaluation.record import cpu_name, versions
from studies.reproduce.fingerprint import differences, digest

FLOOR = 'real_against_real.json'


def read_result(path: str | Path) -> dict[str, Any] | None:
    """The result in a file; None if there is none.

    Raises:
        ValueError: the file is no result.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
        result['final'], result['arm'], result['seed'], result['resolved']
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is not the result of a run ({type(error).__name__}: {error}). Remove it to have the '
                         'run made again.') from error
    return result


def staleness(result: Mapping[str, Any], resolved: Mapping[str, Any]) -> str:
    """How the config that made a result differs from the present one; empty if it does not."""
    return differences(result['resolved'], resolved)


def run_result(work_dir: str | Path, resolved: Mapping[str, Any], seed: int,
               max_iters: int | None) -> dict[str, Any] | None:
    """What ``metrics.json`` of a finished run says, without the history; None if the run is not finished."""
    path = Path(work_dir) / 'metrics.json'
    if not path.is_file():
        return None
    report = json.loads(path.read_text(encoding='utf-8'))
    if report['seed'] != seed or (max_iters is not None and report['iterations'] < max_iters):
        return None
    date = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.timezone.utc)
    return dict(date=date.isoformat(timespec='seconds'), iterations=report['iterations'],
                train_seconds=report['train_seconds'], fingerprint=digest(resolved), final=report['final'],
                real_against_real=report['real_against_real'], resolved=dict(resolved))


def provenance(threads: int | None) -> dict[str, Any]:
    """Machine, versions and commit of what runs now; ``threads`` of each run, None if that is not known."""
    machine = dict(cpu=cpu_name(), cores=os.cpu_count(), threads=threads)
    if torch.cuda.is_available():
        machine['gpu'] = torch.cuda.get_device_name()
    return dict(machine=machine, commit=git_commit(), versions=versions())


def git_commit() -> str | None:
    """Commit of the checkout that slimdiff runs from, with ``+changes`` if files differ from it; None without git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / '.git').exists():
        return None
    try:
        commit = subprocess.run(['git', 'rev-parse', '--short=12', 'HEAD'], cwd=root, capture_output=True, text=True)
        changes = subprocess.run(['git', 'status', '--porcelain', '--untracked-files=no', '--', 'slimdiff', 'studies',
                                  'configs'], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return commit.stdout.strip() + ('+changes' if changes.stdout.strip() else '') if commit.returncode == 0 else None

"""Throughput that ``slimdiff benchmark --json`` has measured, matched to configs by network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATTERN = 'throughput_*.json'


@dataclass
class Setting:
    """One machine and way of running, with what was measured there.

    Args:
        text: in words.
        speeds: network's digest -> time steps per second.
        commands: that measured them.
    """

    text: str
    speeds: dict[str, float] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)


def setting_text(settings: dict[str, Any]) -> str:
    """``AMD EPYC, 2 threads, batch 8, float32``."""
    threads = [f'{settings["threads"]} threads'] if settings['device'] == 'cpu' else []
    compiled = [f'compiled ({settings["compile"]})'] if settings['compile'] else []
    return ', '.join([settings['hardware'], *threads, f'batch {settings["batch_size"]}', settings['dtype_means'],
                      *compiled])


def read(folder: Path) -> list[dict[str, Any]]:
    """What ``slimdiff benchmark`` wrote in a folder, in order of name: one entry for each batch size."""
    files = [json.loads(file.read_text(encoding='utf-8')) for file in sorted(folder.glob(PATTERN))]
    return [{**file, **batch} for file in files for batch in file.get('batches', [{}])]


def by_setting(results: Iterable[dict[str, Any]]) -> list[Setting]:
    """Several files of one machine and setting are one column."""
    found: dict[str, Setting] = {}
    for result in results:
        text = setting_text(result['settings'])
        setting = found.setdefault(text, Setting(text))
        setting.commands.append(result['command'])
        for config in result['configs'].values():
            setting.speeds.setdefault(config['digest'], config['time_steps_per_second'])
    return list(found.values())

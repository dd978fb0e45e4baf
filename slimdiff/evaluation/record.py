"""What a command writes beside its numbers: the command, the machine, the versions."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from slimdiff.checkpoint import write_json
from slimdiff.version import __version__


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), platform.machine())


def versions() -> dict[str, str]:
    """Of slimdiff, torch and Python."""
    return dict(slimdiff=__version__, torch=torch.__version__, python=platform.python_version())


def provenance(tool: str, argv: Sequence[str]) -> dict[str, Any]:
    """``dict(command, machine, versions)`` of a command ``tools/analysis_tools/<tool>`` with arguments ``argv``."""
    return dict(command=shlex.join(['python', f'tools/analysis_tools/{tool}', *argv]),
                machine=f'{cpu_name()}, {torch.get_num_threads()} threads',
                versions=versions())


def publish(name: str, folders: Mapping[str, Path], result: Any, draw: Callable[[Path], None], section: str,
            table: str) -> None:
    """Write ``name``.json, .png and .md into ``folders[...]`` and print the table and where the files are.

    Args:
        folders: of 'json', 'png' and 'md'.
        draw: writes the figure to a path.
        section: the Markdown that a page includes.
    """
    files = {kind: folders[kind] / f'{name}.{kind}' for kind in ('json', 'png', 'md')}
    write_json(files['json'], result)
    draw(files['png'])
    files['md'].parent.mkdir(parents=True, exist_ok=True)
    files['md'].write_text(section, encoding='utf-8')
    print(table, end='')
    print('wrote ' + ', '.join(map(str, files.values())))


def rounded(values: Any, digits: int = 5) -> Any:
    """Nested lists, dicts and tensors with floats of ``digits`` significant digits: small files that one can read."""
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    if isinstance(values, dict):
        return {key: rounded(value, digits) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [rounded(value, digits) for value in values]
    return float(f'{values:.{digits}g}') if isinstance(values, float) else values

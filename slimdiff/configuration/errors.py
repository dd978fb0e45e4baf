"""The error of a config, and where in the files a wrong name stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path


class ConfigError(ValueError):
    """What is wrong with a config: one line or block for each problem.

    Args:
        problems: a message each.
        filename: the config that was loaded, for the first line; None for a config made in Python.
    """

    def __init__(self, problems: Sequence[str] | str, filename: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.filename = filename
        text = '\n'.join(self.problems)
        if len(self.problems) > 1:
            text = f'{len(self.problems)} problems in {filename or "the config"}\n{text}'
        super().__init__(text)


def config_files(filename: str | Path) -> list[Path]:
    """``filename`` and every file that its ``_base_`` leads to, the most derived first."""
    files: list[Path] = []
    todo = [Path(filename)]
    while todo:
        path = todo.pop(0)
        if path in files or not path.is_file():
            continue
        files.append(path)
        todo += [path.parent / base for base in _bases(path)]
    return files


def _bases(path: Path) -> list[str]:
    if path.suffix != '.py':
        return []
    try:
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == '_base_' for t in node.targets):
                value = ast.literal_eval(node.value)
                return [value] if isinstance(value, str) else list(value)
    except (SyntaxError, ValueError, OSError, UnicodeDecodeError):
        pass
    return []


def locate(filename: str | None, name: str) -> str:
    """``"file:line"`` where the word ``name`` stands in a config or its bases; the config's own name otherwise."""
    if filename is None:
        return 'config'
    word = re.compile(rf'(?<![\w.]){re.escape(name)}(?!\w)')
    for path in config_files(filename):
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            if word.search(line.partition('#')[0]):
                return f'{shown(path)}:{number}'
    return shown(filename)


def assigns(filename: str | None, name: str) -> bool:
    """Whether a config or a base of it gives anything but None to ``name``."""
    given = re.compile(rf"\b{re.escape(name)}['\"]?\s*[=:](?!=)\s*(?!None\b)")
    return filename is not None and any(given.search(path.read_text(encoding='utf-8'))
                                        for path in config_files(filename))


def shown(path: str | Path) -> str:
    """``path`` as a reader wants it: relative to the current folder if it lies below it."""
    path = Path(path).resolve()
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)

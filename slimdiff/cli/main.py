"""The console command: ``slimdiff COMMAND ARGS`` calls ``slimdiff.cli.COMMAND.main(ARGS)``.

A module of this package with a ``main(argv) -> int`` is a command; its docstring's first line is its help. Nothing is
imported but the command that runs, so ``slimdiff --help`` answers at once.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from slimdiff.spelling import did_you_mean
from slimdiff.version import __version__


def commands() -> dict[str, str]:
    """Name -> one line of help."""
    found = {}
    for file in sorted(Path(__file__).parent.glob('*.py')):
        tree = ast.parse(file.read_text(encoding='utf-8'))
        if file.stem != 'main' and any(isinstance(part, ast.FunctionDef) and part.name == 'main' for part in tree.body):
            found[file.stem] = (ast.get_docstring(tree) or '').split('\n')[0].rpartition('``: ')[2]
    return found


def usage() -> str:
    """The text of ``slimdiff --help``."""
    known = commands()
    width = max(map(len, known))
    lines = '\n'.join(f'  {name:<{width}}  {text}' for name, text in known.items())
    return ('usage: slimdiff COMMAND ...\n\n'
            f'slimdiff {__version__}: train, distil and sample slim diffusion models.\n\n'
            f'commands:\n{lines}\n\nRun slimdiff COMMAND --help for the options of a command.')


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ('-h', '--help', 'help'):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ('-V', '--version'):
        print(f'slimdiff {__version__}')
        return 0
    name = argv[0].replace('-', '_')
    known = commands()
    if name not in known:
        print(f"slimdiff: there is no command '{argv[0]}'.{did_you_mean(name, known)} Commands: {', '.join(known)}.",
              file=sys.stderr)
        return 2
    return importlib.import_module(f'slimdiff.cli.{name}').main(argv[1:])


if __name__ == '__main__':
    sys.exit(main())

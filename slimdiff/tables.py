"""Tables of text: for the terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, rule: bool = False) -> str:
    """For the terminal: the first ``left`` columns are flush left, the others flush right; ``rule`` is a line below
    the header."""
    align = ['left' if i < left else 'right' for i in range(len(header))]
    # As a row: below a header of its own, tabulate would pad every column by two.
    lines = tabulate([header, *rows], tablefmt='plain', colalign=align, disable_numparse=True).split('\n')
    return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]] if rule else lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown, with a line break at the end."""
    return tabulate(rows, header, tablefmt='github', disable_numparse=True) + '\n'

"""When two names are so alike that one is probably a misspelling of the other."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable


def looks_like(name: str, options: Iterable[str]) -> str | None:
    """The option that ``name`` is probably a misspelling of, or None.

    Stricter than :func:`slimdiff.registry.nearest`, which looks for the best suggestion once an error is certain:
    this one decides whether there is an error, and ``train_dataset`` is not a misspelt ``train_dataloader``.
    """
    folded = str(name).lower()
    best, best_distance = None, None
    for option in options:
        other = option.lower()
        if option == name:
            continue
        allowed = 1 if len(other) < 8 else 2
        close = abs(len(folded) - len(other)) <= allowed and len(other) >= 4
        distance = edit_distance(folded, other) if close else None
        if distance is not None and distance <= allowed:
            pass
        elif len(other) >= 8 and difflib.SequenceMatcher(None, folded, other).ratio() >= 0.86:
            distance = allowed + 1
        else:
            continue
        if best_distance is None or distance < best_distance:
            best, best_distance = option, distance
    return best


@functools.cache
def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours that turn ``a`` into ``b`` (each counts 1)."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[j - 1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]

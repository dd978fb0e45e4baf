"""Names that are alike: the best suggestion after an error, and whether a name is a misspelling at all."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable


def nearest(name: str, options: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` of ``options`` spelt most like ``name``, best first (may be empty)."""
    by_folded = {option.lower(): option for option in options}
    return [by_folded[m] for m in difflib.get_close_matches(str(name).lower(), by_folded, n=n, cutoff=0.5)]


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` with the nearest option, or an empty string."""
    found = nearest(name, options, n=1)
    return f" Did you mean '{found[0]}'?" if found else ''


def looks_like(name: str, options: Iterable[str]) -> str | None:
    """The option that ``name`` is probably a misspelling of, or None.

    Stricter than :func:`nearest`, which looks for the best suggestion once an error is certain: this one decides
    whether there is an error, and ``train_dataset`` is not a misspelt ``train_dataloader``.
    """
    folded = str(name).lower()
    found = []
    for option in options:
        other = option.lower()
        if option == name or len(other) < 4:
            continue
        allowed = 1 if len(other) < 8 else 2
        wrong, ratio = differing(folded, other)
        if wrong <= allowed or (len(other) >= 8 and ratio >= 0.86):
            found.append((min(wrong, allowed + 1), option))
    return min(found, key=lambda pair: pair[0])[1] if found else None


@functools.cache
def differing(a: str, b: str) -> tuple[int, float]:
    """Letters of the longer word that the other lacks, in order, and difflib's ratio (1: the same words)."""
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return max(len(a), len(b)) - sum(block.size for block in matcher.get_matching_blocks()), matcher.ratio()

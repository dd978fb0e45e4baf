"""The Markdown table of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimdiff.evaluation.cost import human
from slimdiff.search.comparison.compare import FULL
from slimdiff.tables import markdown_table

#: figures shown, where they were measured (others only without any of these): title, name, factor
FIGURES = (('FID', 'fid', 1.0), ('Fréchet distance x 1000, not FID', 'fd', 1000.0),
           ('kernel distance x 1000, not KID', 'kd', 1.0), ('Laplacian SWD', 'swd/mean', 1.0),
           ('class accuracy (%)', 'class_accuracy', 100.0))


def columns_of(comparisons: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    """The figures that are shown: title, name, factor.

    Raises:
        ValueError: none of them was measured.
    """
    names = {name for content in comparisons for found in content['samplers'].values() for row in found.values()
             for name in row['figures']}
    columns = [column for column in FIGURES if column[1] in names] or [(name, name, 1.0) for name in sorted(names)]
    if not columns:
        raise ValueError('The comparisons hold no figure of any sampler yet.')
    return columns


def headings(columns: Sequence[tuple[str, str, float]]) -> list[str]:
    """The first row of a table with these figures."""
    return ['', 'MACs an image', 'of full', 'ms an image', 'speed-up', *(title for title, _, _ in columns)]


def comparison_table(content: Mapping[str, Any], sampler: str) -> str:
    """Rivals by cost and figures under one sampler; in brackets how much a figure is above the full network's."""
    found, columns = content['samplers'][sampler], columns_of([content])
    full, rows = found[FULL], []
    for rival, row in found.items():
        cells = [rival, human(row['macs']), f'{100 * row["macs"] / full["macs"]:.0f} %', f'{1e3 * row["seconds"]:.3g}',
                 f'{row["speed_up"]["median"]:.3g}']
        for _, name, factor in columns:
            base = full['figures'][name]
            above = f' ({100 * (row["figures"][name] / base - 1):+.1f} %)' if rival != FULL and base else ''
            cells.append(f'{factor * row["figures"][name]:.4g}{above}')
        rows.append(cells)
    return markdown_table(headings(columns), rows)

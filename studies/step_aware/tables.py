"""The Markdown of a study's comparisons: means over training seeds, with their spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from slimdiff.evaluation.cost import human
from slimdiff.search.comparison.compare import FULL
from slimdiff.search.comparison.tables import columns_of, headings
from slimdiff.tables import markdown_table
from studies.reproduce.statistics import paired, summarise

#: contents of comparison.json
Comparisons = Sequence[Mapping[str, Any]]


def rivals_of(comparisons: Comparisons, sampler: str) -> list[str]:
    """Names of the rows, in the order of the first comparison that has them."""
    return list(dict.fromkeys(name for content in comparisons for name in content['samplers'].get(sampler, {})))


def shown(values: Sequence[float], digits: int = 4) -> str:
    """``12.3 ± 0.4``, the mean and the sample standard deviation."""
    found = summarise(list(values))
    if found is None:
        return '-'
    return f'{found.mean:.{digits}g}' + ('' if found.std is None else f' ± {found.std:.2g}')


def difference(rows: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]], name: str) -> str:
    """How much a figure is above the full network's over common seeds, in percent: ``+3.1 % (p = 0.2)``."""
    pairs = [(row['figures'].get(name), base['figures'].get(name)) for row, base in zip(rows, full)]
    pairs = [(a, b) for a, b in pairs if a is not None and b]
    if not pairs:
        return ''
    found = paired({i: a for i, (a, _) in enumerate(pairs)}, {i: b for i, (_, b) in enumerate(pairs)})
    text = f'{100 * found.mean / found.base:+.1f} %'
    return f' ({text}' + (f', p = {found.p:.2g})' if found.p is not None else ')')


def seeds_table(comparisons: Comparisons, sampler: str) -> str:
    """Rivals by cost and figures under one sampler: means over the comparisons, with their spread."""
    having = [content['samplers'][sampler] for content in comparisons if sampler in content['samplers']]
    columns = columns_of(comparisons)
    rows = []
    for rival in rivals_of(comparisons, sampler):
        found = [(content[rival], content[FULL]) for content in having if rival in content]
        own, full = [row for row, _ in found], [base for _, base in found]
        macs = sum(row['macs'] for row in own) / len(own)
        cells = [rival, human(macs), f'{100 * sum(r["macs"] / f["macs"] for r, f in found) / len(found):.0f} %',
                 shown([1e3 * row['seconds'] for row in own], 3),
                 shown([row['speed_up']['median'] for row in own], 3)]
        for _, name, factor in columns:
            values = [factor * row['figures'][name] for row in own]
            cells.append(shown(values) + ('' if rival == FULL else difference(own, full, name)))
        rows.append(cells)
    return markdown_table(headings(columns), rows)


def search_table(comparisons: Comparisons) -> str:
    """What the searches found and spent; means over the comparisons."""
    having = [content['searches'] for content in comparisons if content.get('searches')]
    judges = list(dict.fromkeys(judge for found in having for one in found.values() for judge in one['hypervolume']))
    rows = []
    for name in dict.fromkeys(name for found in having for name in found):
        found = [searches[name] for searches in having if name in searches]
        correlations = [value for one in found for value in one['rank_correlation'].values() if value is not None]
        own = [one['own_hypervolume'] for one in found if one['own_hypervolume'] is not None]
        rows.append([name, shown([one['candidates'] for one in found]), shown([one['images'] for one in found], 6),
                     human(sum(one['macs'] for one in found) / len(found)), shown([one['seconds'] for one in found]),
                     shown(own),
                     *(shown([one['hypervolume'][judge] for one in found if judge in one['hypervolume']])
                       for judge in judges),
                     shown(correlations, 3) if correlations else ''])
    header = ['search', 'candidates', 'generated images', 'network MACs', 'seconds', 'hypervolume, its own images',
              *(f'fresh images, {judge}' for judge in judges), 'rank correlation of the evaluators']
    return markdown_table(header, rows)


def section(comparisons: Comparisons) -> str:
    """The Markdown of a study: a table for each sampler, and what the searches cost."""
    if not comparisons:
        return 'Not compared yet.\n'
    first = comparisons[0]
    machines = sorted({content['machine'] for content in comparisons})
    parts = [f'*{len(comparisons)} training seed{"s" * (len(comparisons) > 1)}; {first["num_images"]:,} images under '
             f'each allocation and sampler, the same noise for all; on {"; ".join(machines)}. ± is the sample standard '
             'deviation over training seeds; in brackets the difference from the full network, with a two-sided paired '
             't-test where there are several seeds. Speed-up: median over batches of the ratio of seconds within a '
             'batch.*']
    samplers = dict.fromkeys(key for content in comparisons for key in content['samplers'])
    for key in samplers:
        name, _, steps = key.partition(':')
        parts.append(f'{name}, {steps} steps:\n\n{seeds_table(comparisons, key)}')
    if any(content.get('searches') for content in comparisons):
        parts.append('What the searches found and spent. The hypervolume is the share of the box between the narrowest '
                     'width and the full network that a front dominates: as the search saw it, and judged on images '
                     f'from other noise.\n\n{search_table(comparisons)}')
    return '\n\n'.join(part.rstrip('\n') for part in parts) + '\n'

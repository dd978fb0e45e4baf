"""Markdown: a page for each family, and the page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from slimdiff.evaluation.cost import human
from studies.model_zoo.entries import Count, Entry
from studies.model_zoo.measurements import Setting, by_setting, setting_text
from studies.model_zoo.published import FAMILIES, Family

GENERATED = '<!-- Written by `python tools/misc/model_zoo.py`: change that, not this. -->'
BENCHMARK = ('slimdiff benchmark configs/ldm/ffhq.py configs/sd/ffhq.py configs/sd/ffhq_ldm-layout.py '
             'configs/lite_ldm/ffhq.py \\\n    --batch-size 8 --json benchmarks/results/throughput_cpu.json')
NONE = '-'


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """The first ``left`` columns to the left, the others to the right."""
    rule = ['---' if i < left else '---:' for i in range(len(header))]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (header, rule, *rows))


def params_of(count: Count) -> str:
    tokens = count['class_tokens']
    return human(count['params'] - tokens) + (f' + {human(tokens)}' if tokens else '')


def counts_table(entries: Iterable[Entry], counts: Mapping[str, Count], settings: Sequence[Setting],
                 link: bool) -> str:
    """All configs of a family; ``link``: to the files beside the page."""
    speeds = [f'time steps/s [{i}]' for i in range(1, len(settings) + 1)] or ['time steps/s']
    rows = []
    for e in entries:
        count = counts[e.digest]
        measured = [f'{s.speeds[e.digest]:.4g}' if e.digest in s.speeds else NONE for s in settings] or [NONE]
        rows.append((f'[{e.name}.py]({e.name}.py)' if link else f'`{e.path}`', e.data,
                     'x'.join(map(str, count['input'])), params_of(count), human(count['macs_published']),
                     human(count['macs_ptflops']), human(count['macs_with_attention']), human(count['activations']),
                     *measured,
                     e.published.params or NONE, e.published.macs or NONE, e.published.fid or NONE))
    header = ('config', 'data', 'input', 'params', 'MACs', 'with biases', 'with attention', 'activations', *speeds,
              "the paper's params", "the paper's MACs", "the paper's FID")
    return markdown_table(header, rows, left=2)


def notes(entries: Iterable[Entry], counts: Mapping[str, Count], settings: Sequence[Setting]) -> str:
    """What the columns mean."""
    lines = [
        'Counts are of one sample through the UNet, once: MACs of convolutions and linear layers (the convention of '
        'the papers); with biases (and the norms of transformer blocks), which ptflops adds and which decide on the '
        'last digit that a paper prints; with the products of attention, without biases. Activations are the numbers '
        'that convolutions, linear layers and attention write. '
        'Columns of the paper hold what it prints; its FIDs are of 50,000 images, and nothing here has reproduced '
        'them.']
    if any(counts[e.digest]['class_tokens'] for e in entries):
        lines.append('A second number of parameters is the class tokens, which are part of the UNet here and which LDM '
                     'counts apart.')
    contexts = sorted({counts[e.digest]['context_length'] for e in entries} - {None})
    if contexts:
        lines.append(f'Text is {" or ".join(map(str, contexts))} tokens.')
    if settings:
        lines.append('Time steps per second: '
                     + '; '.join(f'[{i}] {s.text}' for i, s in enumerate(settings, 1))
                     + '. Configs of the same network share a measurement; - is not measured.')
    else:
        lines.append('Time steps per second have not been measured yet.')
    return '\n'.join(f'* {line}' for line in lines)


def family_page(family: Family, entries: Sequence[Entry], counts: Mapping[str, Count],
                results: Sequence[dict[str, Any]]) -> str:
    """README.md of a folder of configs."""
    settings = by_setting(results)
    title, url = family.paper
    about = '\n'.join(f'* `{e.name}.py`: {e.summary}' for e in entries)
    return '\n\n'.join([
        f'# {family.title}', GENERATED, f'> [{title}]({url})', family.text,
        counts_table(entries, counts, settings, link=True), notes(entries, counts, settings),
        f'## What each of them is\n\n{about}']) + '\n'


def speed_ups(results: Sequence[dict[str, Any]], digests: set[str]) -> str:
    """Speed-ups next to MACs ratios; '' where nothing was measured."""
    sections = []
    for result in results:
        configs, rows = result['configs'], []
        first = next(iter(configs))
        for name, found in result['against_first'].items():
            if not {configs[first]['digest'], configs[name]['digest']} <= digests:
                continue  # the config has changed since
            gain, ratio, efficiency = (found[k] for k in ('speed_up', 'macs_ratio', 'efficiency'))
            rows.append((f'`{name}`', f'{gain["median"]:.2f} ({gain["q25"]:.2f} .. {gain["q75"]:.2f})',
                         f'{ratio["published"]:.2f}', f'{efficiency["published"]:.2f}',
                         f'{ratio["with_attention"]:.2f}', f'{efficiency["with_attention"]:.2f}'))
        if rows:
            header = (f'against `{first}`', 'speed-up (quartiles)', 'MACs ratio', 'efficiency',
                      'MACs ratio with attention', 'efficiency')
            sections.append(f'{setting_text(result["settings"])}:\n\n{markdown_table(header, rows)}')
    return '\n\n'.join(sections)


def trained_table(entries: Sequence[Entry], counts: Mapping[str, Count]) -> str:
    """The configs whose weights are in the repository."""
    rows = [(f'`{e.family}/{e.name}`', e.summary, human(counts[e.digest]['params']),
             human(counts[e.digest]['macs_published']), f'`{e.weights}/README.md`') for e in entries if e.weights]
    return markdown_table(('name', 'model', 'params', 'MACs', 'card'), rows)


def docs_page(by_family: Mapping[str, Sequence[Entry]], counts: Mapping[str, Count],
              results: Sequence[dict[str, Any]]) -> str:
    """docs/en/model_zoo.md."""
    settings = by_setting(results)
    everything = [entry for entries in by_family.values() for entry in entries]
    measured = speed_ups(results, {e.digest for e in everything})
    parts = ['# Model zoo', GENERATED, 'Every config of full and of small size, what its network costs, and what the '
             'papers print of it. [What is counted and how](user_guides/cost.md).',
             '## Trained models that come with slimdiff', trained_table(everything, counts),
             'Each is a folder that diffusers opens, with a card of its training and its measured quality. '
             '`slimdiff sample NAME --out grid.png` draws from it, `slimdiff.load(NAME)` is its pipeline, and '
             '`slimdiff test NAME` measures it.',
             '## How the tables are to be read', notes(everything, counts, settings)]
    for family in FAMILIES:
        if by_family.get(family.folder):
            title, url = family.paper
            parts += [f'## {family.title}', f'[{title}]({url})', family.text,
                      counts_table(by_family[family.folder], counts, settings, link=False)]
    parts += ['## Measured speed-ups', measured or 'None yet.',
              'Efficiency is the speed-up divided by the ratio of MACs. To measure, on a machine that does nothing '
              f'else:\n\n```bash\n{BENCHMARK}\npython tools/misc/model_zoo.py\n```']
    return '\n\n'.join(parts) + '\n'


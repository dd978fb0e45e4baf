"""The figures called ours on the page of expected results are those of the files that the commands wrote."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/en/expected_results.md').read_text()


def rows():
    """The cells of every row of a table, the first cell as its name."""
    for line in PAGE.splitlines():
        if line.startswith('|') and not line.startswith('|-'):
            name, *cells = [cell.strip() for cell in line.strip('|').split('|')]
            yield name, cells


def test_costs_are_those_of_the_model_zoo():
    counted = {entry['first_config']: entry for entry in
               json.loads((ROOT / 'benchmarks/results/model_zoo.json').read_text())['networks'].values()}
    checked = 0
    for name, (_, params, _, macs) in (row for row in rows() if len(row[1]) == 4 and row[1][0].endswith(' M')):
        config = re.search(r'`(\w+/[\w-]+)`', name)
        if config is None or config[1].split('/')[0] != 'sd':
            continue
        entry = next((entry for path, entry in counted.items()
                      if path in (f'configs/{config[1]}.py', f'configs/{config[1].replace("ffhq", "celebahq")}.py')))
        count = entry['params'] - entry['class_tokens']
        assert params == f'{count / 1e6:.1f} M' and macs == f'{entry["macs_published"] / 1e9:.1f} G', name
        checked += 1
    assert checked == 4


@pytest.mark.parametrize('title, arm', [
    ('Lite: the plain small UNet', 'Lite'), ('wavelet-gated, no distillation', 'WG'), ('+ spatial loss', 'WG+spatial'),
    ('+ frequency loss', 'WG+frequency'), ('+ both: SD', 'SD'), ('Lite + both losses', 'Lite+distillation')])
def test_arms_are_those_of_the_comparison(title, arm):
    found = json.loads((ROOT / 'benchmarks/results/fashion_mnist/comparison.json').read_text())['rows']
    seeds = [row for name, row in found.items() if name.split('/')[0] == arm]
    cells = dict(rows())[title]
    for cell, key, digits in ((cells[1], 'fd_efficientnet_64', 0), (cells[2], 'class_accuracy', 3)):
        values = [row[key] for row in seeds]
        assert cell == f'{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}'

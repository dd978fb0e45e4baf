"""Tables over training seeds, by hand."""

import re

from studies.step_aware.figures import plot_comparisons
from studies.step_aware.tables import search_table, section, seeds_table


def squeezed(table):
    return re.sub(' +', ' ', table)


def content(full, half, **searches):
    def row(macs, seconds, fd):
        return dict(macs=macs, seconds=seconds, speed_up=dict(median=.02 / seconds), figures=dict(fd=fd, other=1.))
    return dict(samplers={'DDIMScheduler:5': dict(full=row(4e6, .02, full), half=row(1e6, .01, half))},
                searches=searches, machine='Abacus', num_images=10)


def test_tables_by_hand(tmp_path):
    spent = dict(candidates=5, images=100, macs=2e9, seconds=3., hypervolume=dict(fd=.5), own_hypervolume=None,
                 rank_correlation={'a and b': .25, 'c and b': None})
    two = [content(.10, .12, dp=spent), content(.12, .16, dp=dict(spent, images=300))]
    # Differences .02 and .04: mean .03 of .11, 27.3 %; t = 3 with one degree of freedom: p = 1 - 2/pi atan(3) = .205.
    table = squeezed(seeds_table(two, 'DDIMScheduler:5'))
    assert '| full | 4 M | 100 % | 20 ± 0 | 1 ± 0 | 110 ± 14 |' in table
    assert '| half | 1 M | 25 % | 10 ± 0 | 2 ± 0 | 140 ± 28 (+27.3 %, p = 0.2) |' in table
    assert 'other' not in table
    assert '| dp | 5 ± 0 | 200 ± 1.4e+02 | 2 G | 3 ± 0 | - | 0.5 ± 0 | 0.25 ± 0 |' in squeezed(search_table(two))
    two[1]['searches']['dp']['hypervolume'] = {}  # a front that stood alone was not judged
    assert '| - | 0.5 | 0.25 ± 0 |' in squeezed(search_table(two))
    assert '| half | 1 M | 25 % | 10 | 2 | 120 (+20.0 %) |' in squeezed(seeds_table(two[:1], 'DDIMScheduler:5'))
    text = section(two)
    assert '2 training seeds; 10 images' in text and 'DDIMScheduler, 5 steps:' in text and 'on Abacus' in text
    assert section([]) == 'Not compared yet.\n'
    plot_comparisons(two, tmp_path / 'x.png')
    assert (tmp_path / 'x.png').stat().st_size > 5000

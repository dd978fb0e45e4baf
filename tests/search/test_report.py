"""Pictures of a search: bars where the allocation says, points where the candidates are."""

import io
import re

import pytest
from PIL import Image

from slimdiff.sampling import Reuse, Run, Segment, StepAllocation
from slimdiff.search import Evaluation, Outcome
from slimdiff.search.report import allocation_svg, few_of, plot_front, write_report


def test_bars_by_hand():
    """1000 timesteps on 500 pixels: 700..999 first, at half the height; the reuse is a low red bar."""
    allocation = StepAllocation((Segment(0, 600, Run(1.)), Segment(600, 700, Reuse()), Segment(700, 1000, Run(.5))))
    svg = allocation_svg(allocation, [900, 100], width=500, height=56)
    bars = [tuple(map(float, bar)) for bar in re.findall(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)]
    assert bars == [(0, 24, 150, 20), (150, 38, 50, 6), (200, 4, 300, 40)]
    assert 'M50.0 ' in svg and 'M450.0 ' in svg and svg.count('#d9534f') == 1
    assert '699..600: reuse prediction' in svg
    assert re.findall(r'<text [^>]*y="([\d.]+)"[^>]*fill="([^"]+)"', svg) == [('40.0', 'white'), ('40.0', 'white')]
    low = allocation_svg(StepAllocation.uniform(.25), [900], width=500, height=56)  # a bar of 10 pixels
    assert re.findall(r'<text [^>]*y="([\d.]+)"[^>]*fill="([^"]+)"', low) == [('30.0', '#444')]


@pytest.fixture
def outcome():
    front = [(StepAllocation.prefix(.5, 1, 1 - k / 10), Evaluation(1 - k / 10, 50. + 5 * k)) for k in range(11)]
    failed = (StepAllocation.uniform(.25), Evaluation(float('nan'), 25., failed=True, reason='NaN'))
    return Outcome(front, [*front, failed], front[3], None, (900., 500., 100.), 100., 'DivergenceEvaluator', {}, 1.,
                   ['NaN'], {'a and b': None})


def test_few_of_the_front_with_both_ends_and_the_chosen(outcome):
    assert few_of(outcome, 3) == [0, 3, 5, 10] and few_of(outcome, 1) == [0, 3]


def test_plot(outcome):
    buffer = io.BytesIO()
    plot_front([e for _, e in outcome.candidates], [e for _, e in outcome.front], buffer, 'x', 100., outcome.chosen[1],
               60.)
    image = Image.open(buffer).convert('RGB')
    colours = {colour for _, colour in image.getcolors(10**6)}
    assert image.size == (700, 450) and (0xe0, 0x8e, 0x0b) in colours and (0x1f, 0x4e, 0x79) in colours


def test_description(outcome):
    text = outcome.describe()
    assert text.startswith('12 candidates, 1 failed, 11 on the front from 50 to 100 MACs an image')
    assert 'DivergenceEvaluator 0.7 at 65 MACs an image, 65.0% of the full network' in text
    assert 'rank correlation of a and b: undefined' in text


def test_page_escapes_names_and_reasons(outcome, tmp_path):
    outcome.failures[:] = ['NaN <1>']
    write_report(None, outcome, tmp_path / 'x.html', num_images=0, title='a < b & c')
    page = (tmp_path / 'x.html').read_text()
    assert page.count('a &lt; b &amp; c') == 2 and '<li>NaN &lt;1&gt;</li>' in page
    assert page.count('<svg') == 7 and page.count('<tr class="chosen">') == 1 and '<td>undefined</td>' in page
    assert '<tr class="chosen"><td>65</td><td>65.0%</td><td>0.7</td>' in page and 'Samples' not in page

import io
import sys

import pytest

import slimdiff.evaluation.progress as module
from slimdiff.evaluation.progress import Progress
from slimdiff.search.progress import SearchProgress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    return now


def test_plain_lines_give_rate_and_remaining_time(clock, monkeypatch):
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda line, logger: lines.append(line))
    monkeypatch.setattr(sys, 'stderr', io.StringIO())
    with Progress(1000, 'sampling', interval=10) as progress:
        for _ in range(5):
            clock[0] += 4
            progress.update(40)
    # 20 s: lines at 12 s only, 120 images at 10 a second.
    assert lines == ['sampling 120/1000 img, 10 img/s, 88 s left']


def test_an_unknown_total_shows_the_rate_alone(clock):
    with SearchProgress(None, done=4) as progress:
        clock[0] += 8
        progress.update(2)
        progress.note = 'best 0.1'
        assert progress.line() == 'searching 2 candidates, 0.25 candidates/s (4 before), best 0.1'


def test_a_terminal_gets_a_bar_and_a_silent_one_nothing(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    with Progress(10, 'sampling') as progress:
        for _ in range(8):
            progress.update(1.25)
        assert progress._bar.n == 10
    assert 'sampling' in terminal.getvalue() and '0/10' in terminal.getvalue()
    silent = Progress(10, 'x', enabled=False)
    silent.update(5)
    assert silent.done == 5 and silent._bar is None

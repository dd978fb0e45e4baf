import io
import sys

import pytest
from tqdm import std, tqdm

import slimdiff.progress as module
from slimdiff.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(std, 'time', lambda: now[0])
    return now


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(module, 'print_log', lambda line, logger: found.append(line))
    return found


def test_plain_lines_give_rate_and_remaining_time(clock, lines, capsys):
    with Progress(1000, 'sampling', interval=10) as progress:
        for _ in range(5):
            clock[0] += 4
            progress.update(40)
    # 20 s: lines at 12 s only, 120 images at 10 a second.
    assert lines == ['sampling 120/1000 img, 10.00 img/s, 01:28 left']
    assert capsys.readouterr().err == ''


def test_without_a_total_there_is_no_remaining_time(clock, lines):
    """A searcher need not know how many candidates there will be; it was "4/0 candidates, -13 s left"."""
    with Progress(None, 'searching', 'candidates', initial=10) as progress:
        progress.set_postfix_str('best 0.1', refresh=False)
        clock[0] += 10
        progress.update(20)
    assert lines == ['searching 30/? candidates, 2.00 candidates/s, best 0.1']


def test_what_was_done_before_does_not_count_for_the_rate(clock, lines):
    """Nor is more than the total a negative remaining time."""
    with Progress(100, 'searching', 'candidates', initial=40) as progress:
        for amount in (20, 60):
            clock[0] += 10
            progress.update(amount)
    assert lines == ['searching 60/100 candidates, 2.00 candidates/s, 00:20 left',
                     'searching 120/? candidates, 4.00 candidates/s, 00:00 left']


def test_a_terminal_gets_a_bar_and_a_silent_one_nothing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    with Progress(10, 'sampling') as progress:
        assert isinstance(progress, tqdm)
        for _ in range(8):
            progress.update(1.25)
        assert progress.n == 10
    assert 'sampling' in terminal.getvalue() and '0/10' in terminal.getvalue()
    seen = terminal.getvalue()
    silent = Progress(10, 'x', enabled=False)
    silent.update(5)
    silent.close()
    assert silent.n == 5 and terminal.getvalue() == seen


def test_fractions_that_add_up_to_more_than_the_total_leave_no_negative_time(clock, lines):
    with Progress(2, 'sampling', interval=10) as progress:
        for _ in range(20):
            clock[0] += 10
            progress.update(0.1)
    assert lines[-1] == 'sampling 2/2 img, 100.00s/ img, 00:00 left'

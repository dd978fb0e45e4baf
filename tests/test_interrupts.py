"""Ctrl-C and SIGTERM, sent to this process."""

import signal

import pytest

from slimdiff.interrupts import Interrupts


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.exit_code == 143
        signal.raise_signal(signal.SIGTERM)  # torchrun repeats it
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_debounce():
    with Interrupts(debounce=10):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGINT)
    assert interrupts.exit_code == 130

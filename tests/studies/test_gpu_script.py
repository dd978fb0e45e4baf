"""``studies/gpu.sh``: every command that it would run has options that its program knows, and files that are there."""

import argparse
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = {'benchmark': ['throughput_gpu', 'step_aware_gpu', 'resamplers_gpu', 'distill_gpu'],
         'compiled': ['throughput_gpu_compiled'], 'teacher': ['teacher'],
         'central': ['central', 'comparison', 'samplers']}


class Parsed(Exception):
    """The command line was read."""


@pytest.fixture
def read_only(monkeypatch):
    """Programs stop once they have read their command line."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, *args, **kwargs):
        raise Parsed(original(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)


@pytest.mark.parametrize('quick', ['', '1'])
@pytest.mark.parametrize('part', PARTS)
def test_commands_are_understood(part, quick, read_only, monkeypatch, tmp_path):
    env = dict(os.environ, DRY='1', QUICK=quick, PYTHON='python')
    found = subprocess.run(['bash', 'studies/gpu.sh', part, str(tmp_path)], cwd=ROOT, env=env, capture_output=True,
                           text=True, check=True)
    commands = dict(line.removeprefix('== ').split(': ', 1) for line in found.stdout.splitlines())
    assert list(commands) == PARTS[part]
    monkeypatch.chdir(ROOT)
    for command in commands.values():
        words = shlex.split(command)
        files = [word.partition('@')[0] for word in ' '.join(words).replace('=', ' ').split() if '.py' in word]
        assert files or words[1] == '-m'
        assert [file for file in files if not Path(file).is_file()] == []
        if words[1] == '-m':
            from slimdiff.cli import benchmark
            assert words[2:4] == ['slimdiff.cli.main', 'benchmark']
            with pytest.raises(Parsed):
                benchmark.main(words[4:])
            assert ('--compile' in words) == (part == 'compiled')
        else:
            monkeypatch.setattr(sys, 'argv', words[1:])
            monkeypatch.syspath_prepend(Path(words[1]).parent)  # as Python does for a script
            with pytest.raises(Parsed):
                runpy.run_path(words[1], run_name='__main__')

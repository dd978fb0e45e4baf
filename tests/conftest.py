"""Shared by all tests: one number of threads, seeds, and a way to run the tools as a user does."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# `pytest -n 2`: each worker, and what it starts, has its share of the cores. PyTorch's threads spin while they wait, so
# more of them than cores cost several times the work; the variable has to be there before PyTorch is.
WORKERS = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
THREADS = int(os.environ.get('OMP_NUM_THREADS') or max(min(2, os.cpu_count() or 1) // WORKERS, 1))
if WORKERS > 1:
    os.environ['OMP_NUM_THREADS'] = str(THREADS)
else:
    # mmengine imports yapf, which keeps a grammar in the user's cache. Workers that find none all write it, and read
    # each other's half of it: the process that starts them comes first.
    import yapf  # noqa: F401

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config):
    torch.set_num_threads(THREADS)
    # A shell starts what runs in the background with Ctrl-C ignored, and the processes of the tests would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same global seeds, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def run_tool(tmp_path):
    """``run_tool('misc/print_config.py', 'x.py', status=2)``: run tools/<name> in an empty folder, return the process.

    ``.stdout`` and ``.stderr`` are text. Fails unless the exit status is ``status``.
    """

    def run(name, *args, status=0, cwd=tmp_path, timeout=300, **env):
        done = subprocess.run([sys.executable, str(ROOT / 'tools' / name), *map(str, args)], cwd=cwd, timeout=timeout,
                              capture_output=True, text=True, env={**os.environ, **env})
        assert done.returncode == status, f'exit status {done.returncode}\n{done.stdout}\n{done.stderr}'
        return done

    return run


@pytest.fixture
def tiny_process():
    """Start `tiny_run.py` (or any command that is given); what still runs at the end is killed."""
    processes = []
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1',
                   'PYTHONUNBUFFERED': '1', 'CUDA_VISIBLE_DEVICES': ''}

    def start(*arguments, command=None, **kwargs):
        command = command or [sys.executable, str(ROOT / 'tests/engine/tiny_run.py')]
        process = subprocess.Popen([*command, *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, **kwargs)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()

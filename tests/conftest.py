"""Shared by all tests: one number of threads, seeds, and a way to run the tools as a user does."""

import contextlib
import io
import os
import random
import runpy
import signal
import subprocess
import sys
import traceback
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
from mmengine.logging import MessageHub, MMLogger  # noqa: E402
from mmengine.visualization import Visualizer  # noqa: E402
from warm_process import WarmProcess, start_ranks  # noqa: E402

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
    """``run_tool('misc/print_config.py', 'x.py', status=2)``: run tools/<name> in an empty folder, in this process.

    ``process=True`` starts one, which takes seconds: for what a process alone shows, and once for each command.
    ``.stdout`` and ``.stderr`` are text. Fails unless the exit status is ``status``.
    """

    def run(name, *args, status=0, cwd=tmp_path, timeout=300, process=False, **env):
        command = [str(ROOT / 'tools' / name), *map(str, args)]
        if process:
            done = subprocess.run([sys.executable, *command], cwd=cwd, timeout=timeout, capture_output=True, text=True,
                                  env={**os.environ, **env})
        else:
            done = run_here(command, cwd, env)
        assert done.returncode == status, f'exit status {done.returncode}\n{done.stdout}\n{done.stderr}'
        return done

    return run


def run_here(command, cwd, env):
    """A script with its arguments, as ``subprocess.run([sys.executable, *command])`` would run it."""
    out, err = io.StringIO(), io.StringIO()
    environment, threads, interrupt = dict(os.environ), torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, 'argv', command)
        os.environ.update(env)
        for named in (MMLogger, MessageHub, Visualizer):  # mmengine's are named by the second in which a run began
            named._instance_dict.clear()
        try:
            runpy.run_path(command[0], run_name='__main__')
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=err)
        except Exception:
            traceback.print_exc()
            status = 1
        finally:
            os.environ.clear()
            os.environ.update(environment)
            torch.set_num_threads(threads)
            signal.signal(signal.SIGINT, interrupt)
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


@pytest.fixture
def tiny_process():
    """Start `tiny_run.py` (or the command that is given); what still runs at the end is killed.

    A script of Python starts warm. With ``ranks``, a list of the processes of ``--launcher pytorch``.
    """
    processes = []
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1',
                   'PYTHONUNBUFFERED': '1', 'CUDA_VISIBLE_DEVICES': ''}

    def start(*arguments, command=None, ranks=None, **kwargs):
        command = [*map(str, command or [sys.executable, ROOT / 'tests/engine/tiny_run.py']), *map(str, arguments)]
        if ranks:
            started = start_ranks(*command[1:], env=environment, ranks=ranks)
            processes.extend(started)
            return started
        if command[0] == sys.executable and command[1].endswith('.py'):
            process = WarmProcess(*command[1:], env=environment, **kwargs)
        else:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True, **kwargs)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()

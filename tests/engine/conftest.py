"""Makes `import tiny_run` work in the tests of this folder, and in the processes that they start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Runs are equal bit for bit at a fixed number of threads; the processes that tests start have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_process():
    """Start `tiny_run.py` (or any command that is given); what still runs at the end is killed."""
    processes = []
    environment = {**os.environ, 'PYTHONPATH': str(HERE.parents[1]), 'OMP_NUM_THREADS': '1',
                   'PYTHONUNBUFFERED': '1', 'CUDA_VISIBLE_DEVICES': ''}

    def start(*arguments, command=None, **kwargs):
        command = command or [sys.executable, str(HERE / 'tiny_run.py')]
        process = subprocess.Popen([*command, *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, **kwargs)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()

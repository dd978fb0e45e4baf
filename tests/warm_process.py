"""Processes for tests that start at once: forked from one that has imported PyTorch and slimdiff.

A cold start takes longer than what most tests do with the process. These are processes like others, with a pid,
signals, an exit status, and what they print in a pipe.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import threading

import torch

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['pytest', 'torch', 'torch.distributed', 'mmengine.runner', 'slimdiff.models',
                                'slimdiff.engine', 'slimdiff.evaluation', 'slimdiff.datasets'])


def run_script(script, arguments, environment, folder, output):
    """What the process does: ``python script arguments``."""
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    # New ones: the fork server's may be of a file, and would try to seek in the pipe.
    sys.stdout, sys.stderr = (os.fdopen(stream, 'w', 1, closefd=False) for stream in (1, 2))
    multiprocessing.set_start_method(None, force=True)  # of its own children: as in any process
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(int(environment.get('OMP_NUM_THREADS', 1)))
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    try:
        runpy.run_path(script, run_name='__main__')
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out


class WarmProcess:
    """``python script arguments``, as :class:`subprocess.Popen` has it; ``stdout`` holds stderr, too."""

    def __init__(self, script, *arguments, env, cwd='.'):
        reader, writer = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=run_script, args=(
            os.path.abspath(script), [str(word) for word in arguments], dict(env), os.path.abspath(cwd), writer))
        self.process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()

    @property
    def pid(self):
        return self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=None):
        self.process.join(timeout)
        assert self.returncode is not None, f'still running after {timeout} s'
        return self.returncode

    def communicate(self, timeout=None):
        """The rest of what it prints, and nothing. It is killed when the time is over, which fails the test."""
        late = threading.Timer(timeout or threading.TIMEOUT_MAX, self.kill)
        late.start()
        text = '' if self.stdout.closed else self.stdout.read()
        late.cancel()
        self.stdout.close()
        self.wait(timeout)
        return text, None

    def send_signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.process.kill()


def start_ranks(script, *arguments, env, ranks=2):
    """The processes that ``torchrun`` would start, for ``--launcher pytorch``."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = dict(env, WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1',
                  MASTER_PORT=str(port))
    return [WarmProcess(script, *arguments, env={**common, 'RANK': str(rank), 'LOCAL_RANK': str(rank)})
            for rank in range(ranks)]

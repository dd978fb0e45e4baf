"""One holder at a time, also against processes that are killed, fork, or are on other hosts."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from slimdiff.checkpoint import lock as module
from slimdiff.checkpoint.lock import NAME, FolderInUseError, FolderLock

# Without torch: it starts in a tenth of a second.
HOLD = '''
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location('lock', sys.argv[1])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
lock.FolderLock(sys.argv[2], 'training').acquire()
print('held', flush=True)
time.sleep(60)
'''


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', HOLD, module.__file__, str(tmp_path / 'run')],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_with_host_and_process_until_the_first_is_killed(holder, tmp_path):
    with pytest.raises(FolderInUseError) as refused:
        FolderLock(tmp_path / 'run', 'search').acquire()
    assert f'run is in use by process {holder.pid} on {socket.gethostname()}, since 2' in str(refused.value)
    assert '(training)' in str(refused.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / 'run' / NAME).exists()  # what a killed process leaves is no lock
    with FolderLock(tmp_path / 'run', 'search'):
        assert json.loads((tmp_path / 'run' / NAME).read_text())['pid'] == os.getpid()
        with pytest.raises(FolderInUseError, match=f'process {os.getpid()} '):
            FolderLock(tmp_path / 'run', 'search').acquire()
    assert not list((tmp_path / 'run').iterdir())


def test_a_forked_child_that_outlives_its_parent_keeps_no_lock(tmp_path):
    with FolderLock(tmp_path, 'training'):
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(30, ))
        child.start()
    try:
        FolderLock(tmp_path, 'training').acquire()
    finally:
        child.kill()
        child.join()


def test_without_locks_of_the_system_the_holder_in_the_file_counts(holder, tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(95, 'Operation not supported')

    monkeypatch.setattr(module.fcntl, 'flock', unsupported)
    with pytest.raises(FolderInUseError, match=f'process {holder.pid} '):
        FolderLock(tmp_path / 'run', 'training').acquire()
    holder.kill()
    holder.wait()
    with FolderLock(tmp_path / 'run', 'training'):
        pass


def test_a_holder_on_another_host_counts_while_it_gives_signs_of_life(tmp_path):
    file = tmp_path / NAME
    file.write_text(json.dumps(dict(host='elsewhere', pid=1, since='2026-01-01', what='training')))
    with pytest.raises(FolderInUseError, match=r'process 1 on elsewhere.*try again in 2 minutes'):
        FolderLock(tmp_path, 'training').acquire()
    os.utime(file, (0, time.time() - module.STALE - 1))
    lock = FolderLock(tmp_path, 'training')
    lock.acquire()
    lock.release()


def test_a_holder_touches_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'BEAT', .01)
    with FolderLock(tmp_path, 'training'):
        os.utime(tmp_path / NAME, (0, 0))
        end = time.monotonic() + 10
        while (tmp_path / NAME).stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(.01)


@pytest.mark.parametrize('content', ['', '{"host"', '[]', '{"host": "elsewhere"}'])
def test_a_damaged_file_is_no_lock(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    with FolderLock(tmp_path, 'training'):
        pass


def test_no_folder(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='is a file; give a folder'):
        FolderLock(tmp_path / 'file', 'training').acquire()

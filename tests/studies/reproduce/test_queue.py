"""The queue with stand-ins for training: what runs when, what fails, what a Ctrl-C does."""

import json
import os
import signal
import sys
import threading
import time
from itertools import pairwise

import pytest

from studies.reproduce import Arm
from studies.reproduce.queue import work
from studies.reproduce.work_dirs import StudyRun

TRAIN = '''
import json, os, pathlib, sys, time
work_dir, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
work_dir.mkdir(parents=True, exist_ok=True)
print('threads', os.environ['OMP_NUM_THREADS'])
print('[  50/100]  loss 0.1  37.5 it/s  600 img/s', flush=True)
'''
WAIT = '''
try:
    time.sleep(60)
except KeyboardInterrupt:
    (work_dir / 'saved').touch()
    sys.exit(130)
'''


def runs(folder, *names):
    return [StudyRun(Arm(name, 'x.py', seeds=[0]), 0, folder / f'{name}-seed0', folder / f'{name}.json', {})
            for name in names]


def command(ends):
    """A training that ends with the code of its arm's name."""
    return lambda run: [sys.executable, '-c', TRAIN + ends.get(run.arm.name, ''), str(run.work_dir), str(run.seed)]


def test_a_failure_is_told_and_the_others_go_on(tmp_path, capsys):
    finished = []
    failed = work(runs(tmp_path, 'a', 'bad', 'c', 'd'), 2, lambda run, seconds: finished.append(run.name),
                  command({'bad': 'raise SystemExit("out of paper")'}), threads=3)
    assert sorted(finished) == ['a-seed0', 'c-seed0', 'd-seed0'] and list(failed) == ['bad-seed0']
    assert 'out of paper' in failed['bad-seed0'] and 'exit status 1' in failed['bad-seed0']
    assert 'out of paper' in capsys.readouterr().err
    assert 'threads 3' in (tmp_path / 'a-seed0.log').read_text()


def test_no_more_than_jobs_at_once(tmp_path):
    work(runs(tmp_path, 'a', 'b', 'c'), 1, lambda run, seconds: None, command(
        {name: 'print(time.time()); time.sleep(0.2); print(time.time())' for name in 'abc'}))
    times = [tuple(float(line) for line in (tmp_path / f'{name}-seed0.log').read_text().split('\n')[2:4])
             for name in 'abc']
    assert all(first[1] <= second[0] for first, second in pairwise(times))


def test_a_result_that_is_not_there_is_a_failure(tmp_path):
    def finish(run, seconds):
        raise ValueError('no metrics.json')

    assert work(runs(tmp_path, 'a'), 1, finish, command({})) == {'a-seed0': 'no metrics.json'}


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_children_once_and_they_save(tmp_path, signum):
    before = signal.getsignal(signal.SIGTERM)

    def stop():
        deadline = time.monotonic() + 30
        while not all((tmp_path / f'{name}-seed0.log').exists() and
                      'it/s' in (tmp_path / f'{name}-seed0.log').read_text() for name in 'ab'):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.1)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        work(runs(tmp_path, 'a', 'b', 'c'), 2, lambda run, seconds: None, command({'a': WAIT, 'b': WAIT}))
    thread.join()
    assert (tmp_path / 'a-seed0/saved').exists() and (tmp_path / 'b-seed0/saved').exists()
    assert not (tmp_path / 'c-seed0.log').exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_runs_with_a_teacher_are_given_its_cache(tmp_path):
    plain, distilled = runs(tmp_path, 'plain', 'distilled')
    distilled.resolved = {'model.teacher.checkpoint': 'teacher'}
    before = distilled.arguments()
    plain.teacher_cache = distilled.teacher_cache = tmp_path / 'answers'
    assert distilled.arguments() == [*before, f'model.teacher.cache={tmp_path / "answers"}']
    assert '--cfg-options' in before and 'cache' not in ' '.join(plain.arguments())


def test_overwriting_removes_the_old_report_first(tmp_path):
    run = runs(tmp_path, 'a')[0]
    run.work_dir.mkdir()
    (run.work_dir / 'metrics.json').write_text(json.dumps({}))
    run.overwrite = True
    assert '--overwrite' in run.arguments() and '--resume' not in run.arguments()
    work([run], 1, lambda run, seconds: None, command({}))
    assert not (run.work_dir / 'metrics.json').exists()

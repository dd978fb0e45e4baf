"""The queue with stand-ins for training: what runs when, what fails, what a Ctrl-C does."""

import io
import json
import os
import signal
import sys
import threading
import time
from itertools import pairwise

import pytest

from studies.reproduce import Arm
from studies.reproduce.display import Display, duration
from studies.reproduce.queue import Child, Queue
from studies.reproduce.work_dirs import Run, lock

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
    return [Run(Arm(name, 'x.py', seeds=[0]), 0, folder / f'{name}-seed0', folder / f'{name}.json', {})
            for name in names]


def command(ends):
    """A training that ends with the code of its arm's name."""
    return lambda run: [sys.executable, '-c', TRAIN + ends.get(run.arm.name, ''), str(run.work_dir), str(run.seed)]


def test_a_failure_is_told_and_the_others_go_on(tmp_path, capsys):
    finished = []
    queue = Queue(runs(tmp_path, 'a', 'bad', 'c', 'd'), 2, lambda run, seconds: finished.append(run.name),
                  command=command({'bad': 'raise SystemExit("out of paper")'}), threads=3)
    queue.work()
    assert sorted(finished) == ['a-seed0', 'c-seed0', 'd-seed0'] and list(queue.failed) == ['bad-seed0']
    assert 'out of paper' in queue.failed['bad-seed0'] and 'exit status 1' in queue.failed['bad-seed0']
    assert 'out of paper' in capsys.readouterr().err
    assert 'threads 3' in (tmp_path / 'a-seed0.log').read_text()


def test_no_more_than_jobs_at_once(tmp_path):
    queue = Queue(runs(tmp_path, 'a', 'b', 'c'), 1, lambda run, seconds: None, command=command(
        {name: 'print(time.time()); time.sleep(0.2); print(time.time())' for name in 'abc'}))
    queue.work()
    times = [tuple(float(line) for line in (tmp_path / f'{name}-seed0.log').read_text().split('\n')[2:4])
             for name in 'abc']
    assert all(first[1] <= second[0] for first, second in pairwise(times))


def test_a_result_that_is_not_there_is_a_failure(tmp_path):
    def finish(run, seconds):
        raise ValueError('no metrics.json')

    queue = Queue(runs(tmp_path, 'a'), 1, finish, command=command({}))
    queue.work()
    assert queue.failed == {'a-seed0': 'no metrics.json'}


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_children_once_and_they_save(tmp_path, signum):
    before = signal.getsignal(signal.SIGTERM)
    queue = Queue(runs(tmp_path, 'a', 'b', 'c'), 2, lambda run, seconds: None, command=command({'a': WAIT, 'b': WAIT}))

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
        queue.work()
    thread.join()
    assert (tmp_path / 'a-seed0/saved').exists() and (tmp_path / 'b-seed0/saved').exists()
    assert not (tmp_path / 'c-seed0.log').exists() and not queue.failed
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_another_queue_trains_is_left(tmp_path):
    first, second = runs(tmp_path, 'a', 'b')
    with lock(first):
        queue = Queue([first, second], 2, lambda run, seconds: None, command=command({}))
        queue.work()
    assert list(queue.failed) == ['a-seed0'] and 'another queue' in queue.failed['a-seed0']
    assert [run.name for run in queue.done] == ['b-seed0']
    with lock(first) as held:
        assert held is not None


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
    Queue([run], 1, lambda run, seconds: None, command=command({})).work()
    assert not (run.work_dir / 'metrics.json').exists()


def child(run, text):
    run.log.parent.mkdir(exist_ok=True, parents=True)
    run.log.write_text(text)
    return Child(run, None, 0, 0.0)


def test_progress_is_read_from_the_log(tmp_path):
    run = runs(tmp_path, 'a')[0]
    line = '11/21 11:28:53 - mmengine - INFO - [{:>5}/10000]  loss 0.031  lr 8.97e-04  25 it/s  367 img/s  data 1%\n'
    assert child(run, 'loading\n').line() == 'starting'
    training = child(run, line.format(50) + line.format(5000))
    assert training.progress() == (5000, 10000, 25.0) and training.line() == '5000/10000, 25 it/s, 3:20 left'
    measuring = child(run, line.format(10000) + 'INFO - sampling 800/2000 img, 90 img/s, 13 s left\n')
    assert measuring.line() == '10000/10000, sampling 800/2000'


def test_remaining_time_by_hand(tmp_path):
    """Half of a 400 s run is left; b is known to take 100 s; c is as the mean of both, 250 s; two at a time."""
    found = runs(tmp_path, 'a', 'b', 'c')
    queue = Queue(found[1:], 2, lambda run, seconds: None, seconds=dict(b=100.0))
    assert Queue(found, 2, lambda run, seconds: None).seconds_left() is None
    queue.children = [child(found[0], '[ 5000/10000]  loss 0.031  25 it/s\n')]
    assert queue.seconds_left() == pytest.approx((200 + 100 + 250) / 2)


def test_display_repaints_on_a_terminal_only():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    plain, live = Display(io.StringIO(), interval=0.0), Display(Terminal())
    live.interval = 0.0
    for display in (plain, live):
        display.show(['one', 'two'])
        display.say('news')
        display.show(['three'])
        display.close()
    assert plain.stream.getvalue() == 'one\ntwo\nnews\nthree\n'
    assert live.stream.getvalue() == 'one\ntwo\n\x1b[2F\x1b[Jnews\nthree\n\x1b[1F\x1b[J'
    assert [duration(s) for s in (12.4, 200, 3729)] == ['12 s', '3:20', '1:02:09']

"""The shell launchers, with stand-ins for python and srun that print what they were called with."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
SCRIPTS = sorted(TOOLS.glob('*.sh'))


@pytest.fixture
def call(tmp_path):
    """Run a launcher from a folder with a space in its name; returns (exit status, program and its arguments).

    ``call.started`` names what it started before that.
    """
    fake = tmp_path / 'bin'
    fake.mkdir()
    for name in ('python', 'srun'):
        (fake / name).write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" {name} "$@"\n'
                                 f'echo "{name} $*" >> "{tmp_path}/started"\n'
                                 'echo "threads=${OMP_NUM_THREADS:-}"\n'
                                 '[[ $* != "-c import yapf" ]]\n')
        (fake / name).chmod(0o755)
    tools = tmp_path / 'with space' / 'tools'
    shutil.copytree(TOOLS, tools)

    def run(script, *args, **env):
        base = {k: v for k, v in os.environ.items()
                if k not in ('OMP_NUM_THREADS', 'NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'GPUS', 'SRUN_ARGS')}
        done = subprocess.run(['bash', str(tools / script), *args], capture_output=True, text=True, cwd=tmp_path,
                              env={**base, 'PATH': f'{fake}:{os.environ["PATH"]}', **env})
        if (tmp_path / 'started').exists():
            run.started = (tmp_path / 'started').read_text().splitlines()
        return done.returncode, done.stdout.splitlines() or done.stderr.splitlines()

    run.tools, run.started = tools, []
    return run


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_syntax_mode_and_usage(script, call):
    assert subprocess.run(['bash', '-n', str(script)]).returncode == 0
    assert os.access(script, os.X_OK)
    status, lines = call(script.name, 'only_one')
    assert status == 2 and lines[0].startswith('usage: ')


def test_dist_train(call):
    status, lines = call('dist_train.sh', 'a config.py', '2', '--cfg-options', 'x="[1, 2]"', '--work-dir', 'a b')
    assert status == 0
    assert lines == [
        'python', '-m', 'torch.distributed.run', '--nnodes=1', '--node_rank=0', '--master_addr=127.0.0.1',
        '--master_port=29500', '--nproc_per_node=2', f'{call.tools}/train.py', '--launcher', 'pytorch',
        'a config.py', '--cfg-options', 'x="[1, 2]"', '--work-dir', 'a b', 'threads=1'
    ]


def test_dist_train_on_several_nodes(call):
    _, lines = call('dist_train.sh', 'c.py', '8', NNODES='3', NODE_RANK='2', MASTER_ADDR='10.0.0.1', PORT='1234',
                    OMP_NUM_THREADS='6')
    assert lines[3:8] == ['--nnodes=3', '--node_rank=2', '--master_addr=10.0.0.1', '--master_port=1234',
                          '--nproc_per_node=8']
    assert lines[-1] == 'threads=6'


def test_one_process_keeps_all_threads(call):
    assert call('dist_train.sh', 'c.py', '1')[1][-1] == 'threads='


def test_dist_test(call):
    _, lines = call('dist_test.sh', 'c.py', 'last.pth', '4', '--num-images', '8')
    assert lines[7:-1] == ['--nproc_per_node=4', f'{call.tools}/test.py', '--launcher', 'pytorch', 'c.py', 'last.pth',
                           '--num-images', '8']


def test_dist_search(call):
    _, lines = call('dist_search.sh', 'c.py', 'last.pth', '2', '--budget', '0.5')
    assert lines[7:-1] == ['--nproc_per_node=2', f'{call.tools}/search.py', '--launcher', 'pytorch', 'c.py', 'last.pth',
                           '--budget', '0.5']


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda p: p.name)
def test_one_process_writes_the_cache_of_yapf_before_many_read_it(script, call):
    """The stand-in for python fails at it, which is no reason not to start."""
    status, lines = call(script.name, '1', '2', '3', '4')
    assert status == 0 and lines[0] in ('python', 'srun') and 'import yapf' not in lines
    assert call.started[0] == 'python -c import yapf' and len(call.started) == 2


def test_slurm_train(call):
    _, lines = call('slurm_train.sh', 'gpu', 'a job', 'c.py', 'work dir', '--amp', GPUS='16',
                    SRUN_ARGS='--time=1:00 --qos=x')
    assert lines[:-1] == [
        'srun', '--partition=gpu', '--job-name=a job', '--gres=gpu:8', '--ntasks=16', '--ntasks-per-node=8',
        '--cpus-per-task=5', '--kill-on-bad-exit=1', '--time=1:00', '--qos=x', 'python', '-u',
        f'{call.tools}/train.py', '--launcher', 'slurm', 'c.py', '--work-dir', 'work dir', '--amp'
    ]


def test_slurm_test_with_few_gpus(call):
    _, lines = call('slurm_test.sh', 'gpu', 'job', 'c.py', 'last.pth', GPUS='2')
    assert lines[3:6] == ['--gres=gpu:2', '--ntasks=2', '--ntasks-per-node=2']
    assert lines[10:-1] == [f'{call.tools}/test.py', '--launcher', 'slurm', 'c.py', 'last.pth']

"""When checkpoints are written, and a full disk."""

import errno
import os

import pytest
import tiny_run

from slimdiff.engine import CheckpointHook, CheckpointWriteError


def names(folder):
    return sorted((p.name for p in folder.glob('iter_*.pth')), key=lambda n: int(n[5:-4]))


def test_interval_and_max_keep(tmp_path):
    tiny_run.build(tmp_path, max_iters=18).train()
    assert names(tmp_path) == ['iter_12.pth', 'iter_16.pth', 'iter_18.pth']
    with pytest.raises(ValueError, match='max_keep at least 1 or -1'):
        CheckpointHook(max_keep=0)


def test_what_was_just_saved_is_not_removed(tmp_path):
    runner = tiny_run.build(tmp_path, max_iters=4, default_hooks__checkpoint__max_keep=1)
    for i in (90, 91):  # as another process may leave them
        (tmp_path / f'iter_{i}.pth').touch()
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    runner.save_checkpoint = lambda folder, name, **kwargs: (tmp_path / name).touch()
    hook.save(runner, 4)
    assert names(tmp_path) == ['iter_4.pth', 'iter_91.pth']


def full_disk_at(monkeypatch, *iterations):
    replace = os.replace

    def refuse(source, target):
        if os.path.basename(target) in {f'iter_{i}.pth' for i in iterations}:
            raise OSError(errno.ENOSPC, 'No space left on device')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', refuse)


def test_full_disk_is_survived(tmp_path, monkeypatch):
    full_disk_at(monkeypatch, 8, 12)
    runner = tiny_run.build(tmp_path, max_iters=16)
    runner.train()
    assert names(tmp_path) == ['iter_4.pth', 'iter_16.pth'] and not list(tmp_path.glob('.*.tmp'))
    log = next((tmp_path / runner.timestamp).glob('*.log')).read_text()
    assert log.count('the disk is full') == 2 and 'Training goes on; the next try is in 4 iterations' in log


def test_full_disk_at_the_end_is_an_error(tmp_path, monkeypatch):
    full_disk_at(monkeypatch, 8)
    with pytest.raises(CheckpointWriteError, match='the disk is full'):
        tiny_run.build(tmp_path, max_iters=8).train()
    assert names(tmp_path) == ['iter_4.pth'] and (tmp_path / 'last_checkpoint').read_text() == 'iter_4.pth'

"""Checkpoint files: atomic, plain, refused with a reason."""

import errno
import os
import pickle
import socket
import subprocess
import sys
import textwrap

import pytest
import torch

from slimdiff.checkpoint import files
from slimdiff.checkpoint.files import CheckpointError, CheckpointWriteError, load_checkpoint


def content(value=1.0, iteration=1, **extra):
    meta = {'format': files.FORMAT, 'format_version': 2, 'slimdiff_version': '0', 'iter': iteration}
    return dict(meta=meta, state_dict={'weight': torch.full((64, 64), value), 'bias': torch.zeros(64)}, **extra)


def write(folder, iteration):
    path = folder / files.checkpoint_name(iteration)
    files.save_checkpoint(content(float(iteration), iteration), path)
    return path


def test_a_refused_opening_names_the_file_that_was_meant(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        files.atomic_write(tmp_path / 'none' / 'a.png', lambda file: None)
    assert caught.value.filename == str(tmp_path / 'none' / 'a.png') and '.tmp' not in str(caught.value)


def test_round_trip_and_pointer(tmp_path):
    path = write(tmp_path, 7)
    assert torch.equal(load_checkpoint(path)['state_dict']['weight'], torch.full((64, 64), 7.0))
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_7.pth'
    assert sorted(os.listdir(tmp_path)) == ['iter_7.pth', 'last_checkpoint']


@pytest.mark.parametrize('function', ['fsync', 'replace'])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, function):
    path = write(tmp_path, 1)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, function, full)
    with pytest.raises(CheckpointWriteError, match=r'iter_1\.pth could not be written: the disk is full'):
        files.save_checkpoint(content(2.0), path)
    assert path.read_bytes() == before and sorted(os.listdir(tmp_path)) == ['iter_1.pth', 'last_checkpoint']


def test_write_refused_half_way(tmp_path, tiny_process):
    """A real refusal of the system in the middle of the data: a limit on the size of files."""
    write(tmp_path, 1)
    script = textwrap.dedent(f'''
        import resource, signal, sys, torch
        from slimdiff.checkpoint import files
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        data = dict(meta=dict(), state_dict=dict(w=torch.zeros(1_000_000)))
        try:
            files.save_checkpoint(data, r"{tmp_path}/iter_2.pth")
        except files.CheckpointWriteError as error:
            sys.exit(f"REFUSED {{error}}")
    ''')
    process = tiny_process('-c', script, command=[sys.executable])
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and 'REFUSED' in output and 'the disk is full' in output, output
    assert sorted(os.listdir(tmp_path)) == ['iter_1.pth', 'last_checkpoint']
    assert load_checkpoint(tmp_path / 'iter_1.pth')['meta']['iter'] == 1


def test_order_of_writing(tmp_path, monkeypatch):
    """Data reach the disk before the name does, and the pointer comes after the checkpoint."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (calls.append('fsync'), fsync(fd)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (calls.append(os.path.basename(b)), replace(a, b)))
    write(tmp_path, 3)
    assert calls == ['fsync', 'iter_3.pth', 'fsync', 'fsync', 'last_checkpoint', 'fsync']


def test_truncated_at_every_length(tmp_path):
    path = write(tmp_path, 1)
    data = path.read_bytes()
    for length in [0, 1, 3, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r'iter_1\.pth (is empty|is damaged|is not a checkpoint)'):
            load_checkpoint(path)


def test_flipped_bit(tmp_path):
    path = write(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match='damaged'):
        load_checkpoint(path)


class Malicious:

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f'touch {self.path}', ))


@pytest.mark.parametrize('writer', ['torch', 'legacy', 'pickle'])
def test_malicious_pickle_is_not_run(tmp_path, writer):
    path, proof = tmp_path / 'evil.pth', tmp_path / 'proof'
    data = dict(content(), evil=Malicious(proof))
    with open(path, 'wb') as file:
        if writer == 'pickle':
            pickle.dump(data, file)
        else:
            torch.save(data, file, _use_new_zipfile_serialization=writer == 'torch')
    with pytest.raises(CheckpointError, match=r'evil\.pth holds pickled objects \(.*system\).*refused'):
        load_checkpoint(path)
    assert not proof.exists()


def test_foreign_files(tmp_path):
    torch.save({'state_dict': {'w': torch.zeros(1)}, 'global_step': 3}, tmp_path / 'ldm.ckpt')
    with pytest.raises(CheckpointError, match=r'ldm\.ckpt was not written by slimdiff.*keys: state_dict, global_step'):
        load_checkpoint(tmp_path / 'ldm.ckpt')
    (tmp_path / 'text.pth').write_text('hello')
    with pytest.raises(CheckpointError, match='not a checkpoint that slimdiff can read'):
        load_checkpoint(tmp_path / 'text.pth')
    with pytest.raises(CheckpointError, match='no such checkpoint'):
        load_checkpoint(tmp_path / 'none.pth')
    with pytest.raises(CheckpointError, match='is a folder; a file is needed here'):
        load_checkpoint(tmp_path)


def test_other_formats(tmp_path):
    data = content()
    data['meta']['format_version'] = 1
    files.save_checkpoint(data, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match=r'written by slimdiff 0\.1 .*this slimdiff reads format 2'):
        load_checkpoint(tmp_path / 'iter_1.pth')
    data['meta']['format_version'] = 99
    files.save_checkpoint(data, tmp_path / 'iter_1.pth')
    with pytest.raises(CheckpointError, match='format 99'):
        load_checkpoint(tmp_path / 'iter_1.pth')


def test_newest_passes_over_the_damaged(tmp_path):
    for iteration in (2, 10, 9):  # by number, not by name or time
        write(tmp_path, iteration)
    assert files.newest_checkpoint(tmp_path)[0].name == 'iter_10.pth'
    (tmp_path / 'iter_10.pth').write_bytes((tmp_path / 'iter_10.pth').read_bytes()[:500])
    (tmp_path / 'last_checkpoint').write_text('iter_11.pth')
    path, data, complaints = files.newest_checkpoint(tmp_path)
    assert path.name == 'iter_9.pth' and data['meta']['iter'] == 9
    assert 'iter_11.pth, which does not exist' in complaints[0] and 'iter_10.pth is damaged' in complaints[1]


def test_temporary_files(tmp_path):
    (tmp_path / '.iter_3.pth.1234.tmp').write_bytes(b'half')
    (tmp_path / 'mine.tmp').write_bytes(b'not ours')
    assert files.remove_temporary_files(tmp_path) == ['.iter_3.pth.1234.tmp']
    assert os.listdir(tmp_path) == ['mine.tmp']


def test_temporary_files_of_living_processes_are_left_alone(tmp_path):
    """Those of dead ones go, folders too; of a process on another host one can only see that it writes."""
    with subprocess.Popen([sys.executable, '-c', '']) as done:
        pass
    here = socket.gethostname()
    names = {f'.a.json.{os.getppid()}@{here}.tmp': True, f'.a.json.{done.pid}@{here}.tmp': False,
             f'.a.json.{os.getpid()}@{here}.tmp': False, '.b.pth.7@elsewhere.tmp': True,
             '.c.pth.7@elsewhere.tmp': False}
    for name in names:
        (tmp_path / name).touch()
    os.utime(tmp_path / '.c.pth.7@elsewhere.tmp', (0, 0))
    folder = tmp_path / f'.export.{done.pid}@{here}.old'
    (folder / 'unet').mkdir(parents=True)
    removed = files.remove_temporary_files(tmp_path)
    assert sorted(removed) == sorted([name for name, stays in names.items() if not stays] + [folder.name])
    assert sorted(os.listdir(tmp_path)) == sorted(name for name, stays in names.items() if stays)
    # What is being written now is known by such a name.
    files.atomic_write(tmp_path / 'x', lambda file: names.update({file.name: True}))
    assert str(tmp_path / f'.x.{os.getpid()}@{here}.tmp') in names


def test_a_refused_write_names_the_file(tmp_path):
    def full(file):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(OSError, match=r"No space left on device: '.*state\.json'"):
        files.atomic_write(tmp_path / 'state.json', full)
    assert not os.listdir(tmp_path)

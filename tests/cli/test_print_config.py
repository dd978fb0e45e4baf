import subprocess
import sys

import pytest
from mmengine.config import Config

from slimdiff.cli.print_config import main
from slimdiff.configuration import load_config

CONFIG = 'configs/_base_/datasets/photo_patches.py'


def test_the_printed_config_is_the_config(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([CONFIG, '--cfg-options', 'train_dataloader.batch_size=7']) == 0
    printed = Config.fromstring(capsys.readouterr().out, '.py')
    assert printed.to_dict() == load_config(CONFIG, {'train_dataloader.batch_size': 7}).to_dict()
    assert printed.train_dataloader.batch_size == 7


@pytest.mark.parametrize('suffix', ['py', 'json', 'yaml'])
def test_out(suffix, tmp_path, capsys):
    out = tmp_path / 'sub' / f'all.{suffix}'
    assert main([CONFIG, '--out', str(out)]) == 0
    assert Config.fromfile(out).to_dict() == load_config(CONFIG).to_dict()
    with pytest.raises(SystemExit):
        main([CONFIG, '--out', 'x.txt'])


def test_the_tool_works_from_any_folder(run_tool):
    assert 'PhotoPatches' in run_tool('misc/print_config.py', CONFIG).stdout


def test_errors_are_one_message_and_status_2(run_tool, tmp_path):
    (tmp_path / 'mine.py').write_text("train_dataloader = dict(\n    batch_sise=3)\n")
    err = run_tool('misc/print_config.py', 'mine.py', status=2).stderr
    assert 'print_config: error: mine.py:2: train_dataloader.batch_sise' in err and "mean 'batch_size'" in err
    assert 'Traceback' not in err
    err = run_tool('misc/print_config.py', 'mine.py', '--debug', status=1).stderr
    assert 'Traceback' in err and 'ConfigError' in err
    err = run_tool('misc/print_config.py', CONFIG, '--cfg-options', 'train_dataloader.batch_sise=3', status=2).stderr
    assert "no 'batch_sise' in train_dataloader" in err


def test_a_closed_pipe(tmp_path):
    command = f'"{sys.executable}" -m slimdiff.cli.main print_config {CONFIG} | head -n 1'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True, cwd=tmp_path)
    assert 'Traceback' not in done.stderr

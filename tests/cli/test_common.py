import argparse
import os
import re
import subprocess
import sys

import pytest

from slimdiff.cli import common
from slimdiff.cli.common import (
    KeyValues,
    add_config_arguments,
    add_launcher_argument,
    load_checked_config,
    runs_cleanly,
)
from slimdiff.configuration import ConfigError
from slimdiff.registry import SCHEDULERS, nearest


def parser():
    out = argparse.ArgumentParser()
    add_config_arguments(out)
    add_launcher_argument(out)
    return out


def test_cfg_options_are_read_as_mmengine_reads_them():
    args = parser().parse_args(['x.py', '--cfg-options', 'a.b=1', 'c=[1,2.5]', 'd=(1,x)', 'e=None', 'f=a=b',
                                '--cfg-options', 'g=true', 'a.b=2'])
    assert args.cfg_options == {'a.b': 2, 'c': [1, 2.5], 'd': (1, 'x'), 'e': None, 'f': 'a=b', 'g': True}


@pytest.mark.parametrize('words', [['a'], ['=1'], ['a=[1,(2]'], ["a={'type': 'b'}"]])
def test_bad_cfg_options(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(['x.py', '--cfg-options', *words])
    assert caught.value.code == 2
    assert '--cfg-options' in capsys.readouterr().err


def test_load_checked_config(tmp_path, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    path = tmp_path / 'c.py'
    path.write_text("optim_wrapper = dict(optimizer=dict(type='SGD', lr=1))\n")
    args = parser().parse_args([str(path), '--cfg-options', 'optim_wrapper.optimizer.lr=2', '--launcher', 'pytorch',
                                '--local-rank', '1'])
    try:
        cfg = load_checked_config(args, ('optim_wrapper', ))
        assert cfg.optim_wrapper.optimizer.lr == 2 and cfg.launcher == 'pytorch' and os.environ['LOCAL_RANK'] == '1'
    finally:
        os.environ.pop('LOCAL_RANK', None)
    path.write_text("optim_wrapper = dict(optimizer=dict(type='SDG', lr=1))\n")
    with pytest.raises(ConfigError, match='SGD'):
        load_checked_config(parser().parse_args([str(path)]))


@pytest.mark.parametrize('tool, words, lacking', [
    ('train.py', [], 'train_dataloader, train_cfg, optim_wrapper'), ('sample.py', ['config.py'], 'model'),
    ('test.py', ['config.py'], 'test_dataloader, test_cfg, test_evaluator')])
def test_a_config_that_lacks_what_a_command_needs(run_tool, tmp_path, tool, words, lacking):
    (tmp_path / 'config.py').write_text('' if lacking == 'model' else "model = dict(type='DiffusionModel')\n")
    done = run_tool(tool, 'config.py', *words, status=2)
    assert f'config.py lacks what this command needs: {lacking}. Base it on' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('words, message', [
    (['sd/photo_pathces.py', 'none.pth'], r'photo_pathces.py. is not there .*Did you mean configs/sd/photo_patches.py'),
    (['mine.py', 'run/iter_350.pth'], 'run/iter_350.pth: there is no such checkpoint file. run has iter_3500.pth.'),
    (['mine.py', 'rum/iter_3500.pth'], 'no such checkpoint file. Nor is there a folder rum.'),
    (['mine.py', 'run/iter_3500.pth', '--allocation', 'a.json'], 'a.json: there is no such allocation file.'),
    (['mine.py', 'run/iter_3500.pth', '--captions', 'c.txt'], 'c.txt: there is no such captions file.'),
])
def test_files_that_are_not_there_are_named_before_torch_is_imported(words, message, tmp_path):
    (tmp_path / 'run').mkdir()
    for name in ('mine.py', 'run/iter_3500.pth'):
        (tmp_path / name).touch()
    code = ("import sys; from slimdiff.cli.sample import main; status = main(sys.argv[1:]); "
            "sys.exit('torch was imported' if 'torch' in sys.modules else status)")
    done = subprocess.run([sys.executable, '-c', code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == '', done.stderr
    assert re.search(message, done.stderr) and 'loading' not in done.stderr


def test_what_is_loaded_is_said_early_and_not_on_stdout(run_tool, monkeypatch, capsys):
    done = run_tool('misc/print_config.py', 'sd/photo_patches', process=True)
    assert done.stderr == 'loading sd/photo_patches ...\n'
    assert 'loading' not in done.stdout and 'model = dict(' in done.stdout
    monkeypatch.delitem(sys.modules, 'torch')  # it is said where PyTorch is yet to be imported, and by the first rank
    for rank, said in ('0', 'loading sd/photo_patches ...\n'), ('1', ''):
        monkeypatch.setenv('RANK', rank)
        common.check_files(parser().parse_args(['sd/photo_patches']))
        assert capsys.readouterr() == ('', said)


def raises(error):

    @runs_cleanly
    def main(argv=None):
        raise error

    return main


def test_statuses(capsys):
    seen = []

    @runs_cleanly
    def fine(argv=None):
        seen.append(argv)
        return 3

    assert fine(['a', '--debug', 'b']) == 3 and seen == [['a', 'b']]
    assert raises(KeyboardInterrupt())(['x']) == 130
    with pytest.raises(SystemExit):
        raises(SystemExit(4))([])
    assert raises(FileNotFoundError(2, 'No such file', 'x.pth'))([]) == 2
    assert 'x.pth' in capsys.readouterr().err


def package_error(argv=None):
    SCHEDULERS.build(dict(type='Nothing'))


def foreign_value_error(argv=None):
    int('x')


def bug_inside_the_package(argv=None):
    nearest('x', 3)  # TypeError


def value_error_that_nobody_wrote(argv=None):
    common.KeyValues(None)  # TypeError from argparse


def test_errors_of_the_package_are_messages(capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert runs_cleanly(package_error)([]) == 2
    err = capsys.readouterr().err
    assert "error: There is no scheduler of type 'Nothing'" in err and 'SLIMDIFF_DEBUG' in err
    assert 'Traceback' not in err
    monkeypatch.setenv('RANK', '1')
    assert runs_cleanly(package_error)([]) == 2
    assert '[rank 1]' in capsys.readouterr().err


@pytest.mark.parametrize('main, kind', [(foreign_value_error, ValueError), (bug_inside_the_package, TypeError),
                                        (value_error_that_nobody_wrote, TypeError)])
def test_bugs_keep_their_traceback(main, kind):
    with pytest.raises(kind):
        runs_cleanly(main)([])


def test_debug_shows_the_traceback(monkeypatch):
    with pytest.raises(ValueError, match='Nothing'):
        runs_cleanly(package_error)(['--debug'])
    monkeypatch.setenv('SLIMDIFF_DEBUG', '1')
    with pytest.raises(ValueError, match='Nothing'):
        runs_cleanly(package_error)([])


def test_a_closed_pipe_is_no_error(tmp_path):
    script = tmp_path / 'many_lines.py'
    script.write_text('import sys\nfrom slimdiff.cli.common import runs_cleanly\n\n\n@runs_cleanly\n'
                      'def main(argv=None):\n    for i in range(100000):\n        print(i)\n    return 0\n\n\n'
                      'sys.exit(main())\n')
    done = subprocess.run(['bash', '-c', f'set -o pipefail; "{sys.executable}" "{script}" | head -n 1'],
                          capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ('0\n', '', 141)


def test_key_values_is_an_argparse_action():
    assert issubclass(KeyValues, argparse.Action)


def test_default_work_dirs_of_two_configs_of_one_name_differ():
    from slimdiff.cli.common import default_work_dir
    assert str(default_work_dir('/a/configs/sd/photo_patches.py')) == 'work_dirs/sd/photo_patches'
    assert str(default_work_dir('/a/configs/lite_ldm/photo_patches.py')) == 'work_dirs/lite_ldm/photo_patches'
    assert str(default_work_dir('/a/mine.py')) == 'work_dirs/mine'


def test_an_error_in_a_loader_worker_is_its_message_without_the_traceback(capsys):
    from torch.utils.data import DataLoader

    from slimdiff.cli.common import runs_cleanly

    class Broken:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise ValueError('photo.png cannot be read.\nUse on_error="skip".')

    @runs_cleanly
    def main(argv):
        next(iter(DataLoader(Broken(), num_workers=1)))

    assert main([]) == 2
    printed = capsys.readouterr().err
    assert 'photo.png cannot be read.\nUse on_error="skip".' in printed and 'Traceback' not in printed


def test_weights_of_another_model_name_their_config(tmp_path, capsys):
    """A checkpoint with its config, changed in what is no part of the network; and a folder of the network alone."""
    from slimdiff.checkpoint import save_checkpoint
    from slimdiff.cli.sample import main
    from slimdiff.configuration import load_config
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS, plain
    for number, name in enumerate(('configs/sd/photo_patches_16px.py', 'configs/ldm/photo_patches_16px.py')):
        cfg = load_config(name, {'model.num_steps': 3})
        model = MODELS.build(serving_config(cfg.model))
        meta = dict(format='slimdiff-checkpoint', format_version=1, config=plain(cfg._cfg_dict))
        path, folder = tmp_path / f'{number}.pth', tmp_path / f'unet{number}'
        save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), path)
        model.unet.save_pretrained(folder)
        for source, options in ((path, ['--weights', 'online']), (folder, [])):
            assert main(['configs/lite_ldm/photo_patches.py', str(source), '--out', str(tmp_path / 'x.png'),
                         *options]) == 2
            said = capsys.readouterr().err.splitlines()
            said = next(line for line in said if 'error' in line)
            first = said.partition(': error: ')[2].partition(':')[0]
            assert first.startswith('Use configs/') and name in first and len(said) < 700, said
            if source == path:  # the config in it tells those of the same network apart
                assert first == f'Use {name}, as shipped, which {path.name} fits'
            assert 'of another shape: ' in said and 'Nothing was loaded.' in said

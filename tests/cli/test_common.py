import argparse
import os
import re
import subprocess
import sys

import pytest

from slimdiff import installation
from slimdiff.cli import common
from slimdiff.cli.common import (
    KeyValues,
    add_config_arguments,
    add_launcher_argument,
    load_checked_config,
    runs_cleanly,
    value_of,
)
from slimdiff.configuration import ConfigError
from slimdiff.registry import SCHEDULERS
from slimdiff.spelling import nearest


def parser():
    out = argparse.ArgumentParser()
    add_config_arguments(out)
    add_launcher_argument(out)
    return out


LITERALS = {
    '1': 1, '-1e-4': -1e-4, '1e3': 1000.0, '2024': 2024, 'None': None, 'True': True, "'2024'": '2024', '""': '',
    '[1,2.5]': [1, 2.5], '(0.9, 0.99)': (0.9, 0.99), '1,2': (1, 2), "{'type': 'b'}": {'type': 'b'},
    "['two dogs, one ball']": ['two dogs, one ball']}
AS_TYPED = [
    'data/my photos', 'a,b', 'two dogs, one ball', 'x', 'true', 'f=a=b', '[a,b]', '(1,x)', '[1,(2]', '007', '1j', '1+1',
    '2024-10-01', "__import__('os')", '{1}', "b'x'", '...', '', ' ', r'C:\data\new', '[' * 10_000, 'é', "it's", 'nan',
    'NULL', '~/data', '$HOME', '1_x', '#1']


@pytest.mark.parametrize('text', LITERALS)
def test_python_literals_are_python_literals(text):
    assert value_of(text) == LITERALS[text] and type(value_of(text)) is type(LITERALS[text])


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('text', AS_TYPED)
def test_everything_else_is_the_string_as_typed(text):
    assert value_of(text) == text


def test_cfg_options_are_collected():
    args = parser().parse_args(['x.py', '--cfg-options', 'a.b=1', 'c=[1,2.5]', 'f=a=b', 'data_root=data/my photos',
                                '--cfg-options', 'g=True', 'a.b=2'])
    assert args.cfg_options == {'a.b': 2, 'c': [1, 2.5], 'f': 'a=b', 'data_root': 'data/my photos', 'g': True}


def test_every_option_of_keys_and_values_has_the_same_parser():
    """No command reads KEY=VALUE with a parser of its own (mmengine's splits strings at commas, and drops spaces)."""
    from slimdiff.cli import benchmark, convert
    words = ['--cfg-options', "a=['x, y']", 'b=my data']
    for parse, needed in ((convert.parse, ['x.ckpt', '--out', 'o']), (benchmark.parse, ['c.py'])):
        assert parse([*needed, *words]).cfg_options == {'a': ['x, y'], 'b': 'my data'}
    sources = [path.read_text(encoding='utf-8') for path in installation.PACKAGE.rglob('*.py')]
    assert len(sources) > 100 and not any('DictAction' in text for text in sources)


@pytest.mark.parametrize('words', [['a'], ['=1']])
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
    (['sd/photo_pathces.py', 'none.pth'], r'pathces.py. was not found .*Did you mean configs/sd/photo_patches.py'),
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


def test_default_work_dirs_of_two_configs_of_one_name_differ(tmp_path):
    from slimdiff.cli.common import default_work_dir
    for path, folder in (('configs/sd/photo_patches.py', 'sd/photo_patches'), ('mine.py', 'mine'),
                         ('configs/lite_ldm/photo_patches.py', 'lite_ldm/photo_patches')):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        assert str(default_work_dir(str(tmp_path / path))) == f'work_dirs/{folder}'
    # The name of a shipped config stands for its path.
    assert str(default_work_dir('sd/photo_patches_quick')) == 'work_dirs/sd/photo_patches_quick'


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


def test_weights_of_another_model_say_how_to_get_their_config(tmp_path, capsys):
    """A checkpoint with its config, and a folder of the network alone."""
    from slimdiff.arguments import plain
    from slimdiff.checkpoint import save_checkpoint
    from slimdiff.cli.sample import main
    from slimdiff.configuration import load_config
    from slimdiff.models.serving import serving_config
    from slimdiff.registry import MODELS
    for number, name in enumerate(('configs/sd/photo_patches_16px.py', 'configs/ldm/photo_patches_16px.py')):
        cfg = load_config(name, {'model.num_steps': 3})
        model = MODELS.build(serving_config(cfg.model))
        meta = dict(format='slimdiff-checkpoint', format_version=2, config=plain(cfg._cfg_dict))
        path, folder = tmp_path / f'{number}.pth', tmp_path / f'unet{number}'
        save_checkpoint(dict(meta=meta, state_dict=model.state_dict()), path)
        model.unet.save_pretrained(folder)
        for source, options in ((path, ['--weights', 'online']), (folder, [])):
            assert main(['configs/lite_ldm/photo_patches.py', str(source), '--out', str(tmp_path / 'x.png'),
                         *options]) == 2
            said = next(line for line in capsys.readouterr().err.splitlines() if 'error' in line)
            assert ': error: Use the config that ' in said and len(said) < 700, said
            if source == path:
                assert f'{number}.pth was trained with (slimdiff print_config {path} --out its_config.py' in said
            assert 'of another shape: ' in said and 'Nothing was loaded.' in said


@pytest.mark.parametrize('option, message', [
    ('resume=yes', "resume: must be True or False, got 'yes'"),
    ('model.num_steps=ten', 'model.num_steps: must be an integer'),
    ('train_cfg.val_before_train=3.7', 'must be True or False, got 3.7'),
    ('model.unet=[]', 'model.unet: must be a dict'),
    ('default_hooks.checkpoint.interval=5000.5', 'must be an integer, got 5000.5'),
    ('default_hooks.emaa=None', "Did you mean 'ema'?"),
    ('optim_wrapper.optimizer.lr={}', "'lr' is a dict, but float"),
    ('model.unet.norm_groups=[4]', 'model.unet.norm_groups: must be an integer, got [4]'),
    ('val_cfg.num_real=[8]', 'val_cfg.num_real: must be'), ('train_dataloader.num_workers=ten', 'must be an integer'),
    ('param_scheduler.0.by_epoch=True', 'param_scheduler.0: counts epochs'), ('work_dir=2024', 'A string needs quotes'),
    ('train_cfg={"_delete_": True, "type": "IterTrainLoop"}', "IterTrainLoop needs 'max_iters'"),
    ("param_scheduler={'type': 'LinearLR'}", 'param_scheduler')])
def test_a_wrong_value_is_one_line(option, message, tmp_path, monkeypatch, capsys):
    """Of every command: all load their config by load_checked_config."""
    from slimdiff.cli import print_config, train
    monkeypatch.chdir(tmp_path)
    for main in (train.main, print_config.main)[:2 if '_scheduler=' not in option else 1]:
        assert main(['lite_ldm/photo_patches_16px', '--cfg-options', option]) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('loading ')]
        assert len(said) == 2 and message in said[0] and 'Traceback' not in said[0], said
    assert not list(tmp_path.iterdir())


def test_one_rank_of_slurm_speaks(monkeypatch, capsys):
    monkeypatch.delenv('RANK', raising=False)
    for rank, expected in (('0', f'x: error: a\nb\n{common.DEBUG_HINT}\n'), ('3', 'x [rank 3]: error: a\n')):
        monkeypatch.setenv('SLURM_PROCID', rank)
        common.report(ValueError('a\nb'), 'x')
        assert capsys.readouterr().err == expected


def test_home_is_put_into_the_values_of_options_alone(monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    words = ['--out=~/x', '--out=x~', 'a=~/x', '~/x', '--amp']
    assert [common.at_home(word) for word in words] == ['--out=/home/me/x', *words[1:]]

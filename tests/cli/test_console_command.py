import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from slimdiff.cli import main as console
from slimdiff.version import __version__

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
#: tools that don't bear the name of their command
OTHER_NAMES = {'convert': 'compvis_to_slimdiff', 'publish': 'publish_model'}


def test_help_lists_every_command(capsys):
    assert console.main(['--help']) == 0
    out = capsys.readouterr().out
    for name, text in console.commands().items():
        assert name in out and text and text in out
    assert {'train', 'test', 'sample', 'print_config', 'get_flops'} <= set(console.commands())
    assert console.main([]) == 2


def test_version(capsys):
    assert console.main(['--version']) == 0
    assert capsys.readouterr().out == f'slimdiff {__version__}\n'


def test_unknown_command(capsys):
    assert console.main(['trian', 'x.py']) == 2
    assert "no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err


def test_dashes_are_underscores(capsys):
    with pytest.raises(SystemExit) as caught:
        console.main(['print-config', '--help'])
    assert caught.value.code == 0 and 'slimdiff print_config' in capsys.readouterr().out


def test_help_does_not_import_torch():
    code = ("import sys; from slimdiff.cli.main import main; status = main(['--help']); "
            "heavy = {'torch', 'mmengine', 'diffusers', 'numpy'} & set(sys.modules); "
            "sys.exit(f'{heavy}' if heavy else 0)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_models_and_a_misspelt_key_import_no_library_that_they_do_not_use(tmp_path):
    """``scipy.stats``, torchmetrics and the like cost as much as PyTorch."""
    (tmp_path / 'mine.py').write_text(f"_base_ = '{TOOLS.parent}/configs/sd/photo_patches_16px.py'\n"
                                      'model = dict(unet=dict(norm_grups=4))\n')
    code = ("import sys, slimdiff.models; heavy = {'torchmetrics', 'scipy.stats', 'skimage', 'matplotlib', 'pymoo'}; "
            "first = ({'fvcore.nn', 'cv2', 'mmcv'} | heavy) & set(sys.modules); from slimdiff.cli.train import main; "
            "status = main(['mine.py']); print(status, first | heavy & set(sys.modules))")
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == '2 set()\n' and "no argument 'norm_grups'" in done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize('name', sorted(console.commands()))
def test_every_command_has_a_main_that_explains_itself(name, capsys):
    module = importlib.import_module(f'slimdiff.cli.{name}')
    with pytest.raises(SystemExit) as caught:
        module.main(['--help'])
    assert caught.value.code == 0
    assert f'slimdiff {name}' in capsys.readouterr().out


@pytest.mark.parametrize('name', sorted(console.commands()))
def test_every_command_is_also_a_tool(name):
    tools = list(TOOLS.rglob(f'{OTHER_NAMES.get(name, name)}.py'))
    assert tools, f'tools/ has no {OTHER_NAMES.get(name, name)}.py'
    assert f'from slimdiff.cli.{name} import main' in tools[0].read_text()


def test_debug_shows_the_traceback_of_a_command(capsys):
    words = ['sample', 'sd/ffhq', '--out', 'x.png']
    assert console.main(words) == 2 and 'came without weights' in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match='came without weights'):
        console.main([*words, '--debug'])

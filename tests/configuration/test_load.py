import sys
from pathlib import Path

import pytest

from slimdiff.configuration import ConfigError, find_config, load_config
from slimdiff.configuration.errors import config_files, locate
from slimdiff.configuration.load import known_configs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('name', ['configs/sd/photo_patches.py', 'sd/photo_patches.py', 'sd/photo_patches'])
def test_our_configs_are_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == ROOT / 'configs/sd/photo_patches.py'


def test_a_file_of_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / 'configs/sd/photo_patches.py'
    mine.parent.mkdir(parents=True)
    mine.write_text("model = dict(type='UNet')\n")
    assert find_config('configs/sd/photo_patches.py').resolve() == mine
    assert load_config('configs/sd/photo_patches.py').model.type == 'UNet'


@pytest.mark.parametrize('name', ['configs/sd/photo_pathces.py', 'photo_patches.py', 'sd/photopatches'])
def test_not_found_names_the_nearest(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r'was not found .*Did you mean .*configs/sd/photo_patches\.py'):
        load_config(name)


def test_not_found_names_a_neighbour(tmp_path):
    (tmp_path / 'my_student.py').touch()
    with pytest.raises(ConfigError, match=r'Did you mean .*/my_student\.py'):
        load_config(tmp_path / 'my_studnet.py')


def test_a_folder_lists_its_configs(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r'is a folder .*configs/sd/photo_patches\.py'):
        load_config('configs/sd')


def test_known_configs_leave_the_bases_out():
    known = known_configs()
    assert 'configs/sd/photo_patches.py' in known
    assert not [name for name in known if '_base_' in name]


def test_scope_and_bases(tmp_path):
    (tmp_path / 'base.py').write_text("model = dict(type='UNet', dropout=0.1)\n")
    (tmp_path / 'mine.py').write_text("_base_ = ['./base.py']\nmodel = dict(dropout=0.2)\n")
    cfg = load_config(tmp_path / 'mine.py')
    assert cfg.default_scope == 'slimdiff'
    assert cfg.model.dropout == 0.2 and cfg.model.type == 'UNet'
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'\ndefault_scope = 'mmengine'\n")
    assert load_config(tmp_path / 'mine.py').default_scope == 'mmengine'


@pytest.mark.parametrize('text, message', [
    ('model = dict(', 'SyntaxError'),
    ('x = unknown_name', "name 'unknown_name' is not defined"),
    ("_base_ = './nowhere.py'",
     r"nowhere\.py'\. A path in _base_ is relative to the config's own folder; slimdiff's configs are in .*configs"),
])
def test_unreadable(text, message, tmp_path):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(ConfigError, match=f'(?s)broken.py: cannot be read: .*{message}'):
        load_config(path)


def test_a_wrong_name_is_located_in_the_file_that_holds_it(tmp_path):
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub/base.py').write_text('# widht\n\nmodel = dict(widht=1)\n')
    (tmp_path / 'mine.py').write_text("_base_ = ['sub/base.py']\nother = 1\n")
    mine = str(tmp_path / 'mine.py')
    assert config_files(mine) == [tmp_path / 'mine.py', tmp_path / 'sub/base.py']
    assert locate(mine, 'widht').endswith('sub/base.py:3')
    assert locate(mine, 'other').endswith('mine.py:2')
    assert locate(mine, 'absent').endswith('mine.py')
    assert locate(None, 'x') == 'config'


def test_a_module_beside_the_config_or_where_the_command_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', sys.path[:])
    for folder, module in (('configs', 'beside_it'), ('start', 'at_the_start')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f'{module}.py').write_text('')
    (tmp_path / 'configs/mine.py').write_text("custom_imports = dict(imports=['beside_it', 'at_the_start'])")
    monkeypatch.chdir(tmp_path / 'start')
    load_config(tmp_path / 'configs/mine.py')
    assert {'beside_it', 'at_the_start'} <= set(sys.modules)
    for module in ('beside_it', 'at_the_start'):
        del sys.modules[module]

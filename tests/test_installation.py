from pathlib import Path

import slimdiff.installation as installation
from slimdiff.installation import find_path, installation_roots

ROOT = Path(__file__).resolve().parents[1]


def test_a_shipped_file_is_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ROOT in installation_roots()
    assert find_path('configs/sd/photo_patches.py') == ROOT / 'configs/sd/photo_patches.py'
    assert find_path('configs/_base_').is_dir()


def test_what_lies_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / 'configs/sd/photo_patches.py'
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert find_path('configs/sd/photo_patches.py').resolve() == mine
    assert find_path(mine) == mine


def test_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_path('configs/sd/no_such_file.py') is None
    assert find_path(tmp_path / 'configs/sd/photo_patches.py') is None  # absolute: not looked for elsewhere


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'teacher').mkdir()
    assert find_path('~/teacher') == tmp_path / 'teacher'


def test_a_wheel_keeps_its_configs_in_mim(tmp_path, monkeypatch):
    package = tmp_path / 'site-packages/slimdiff'
    (package / '.mim/configs').mkdir(parents=True)
    monkeypatch.setattr(installation, 'PACKAGE', package)
    assert installation_roots() == [package / '.mim']

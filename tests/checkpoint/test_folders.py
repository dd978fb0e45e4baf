"""Folders are written whole or not at all."""

import pytest

from slimdiff.checkpoint import atomic_write
from slimdiff.checkpoint.folders import atomic_folder, check_folder


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob('*') if p.is_file()}


def test_a_new_folder_and_a_replaced_one(tmp_path):
    out = tmp_path / 'deep/out'
    with atomic_folder(out) as folder:
        (folder / 'unet').mkdir()
        (folder / 'unet/a').write_text('1')
        assert not out.exists()
    assert content(out) == {'unet/a': '1'}
    with atomic_folder(out) as folder:
        (folder / 'b').write_text('2')
    assert content(out) == {'b': '2'} and [p.name for p in out.parent.iterdir()] == ['out']


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_one(tmp_path, error):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'a').write_text('1')
    with pytest.raises(error), atomic_folder(out) as folder:
        (folder / 'a').write_text('2')
        raise error
    assert content(out) == {'a': '1'} and [p.name for p in tmp_path.iterdir()] == ['out']


def test_a_failing_rename_brings_the_old_one_back(tmp_path, monkeypatch):
    import os
    out, real = tmp_path / 'out', os.replace
    out.mkdir()
    (out / 'a').write_text('1')

    def replace(source, target):
        if str(source).endswith('.tmp'):
            raise OSError('no')
        real(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(OSError), atomic_folder(out) as folder:
        (folder / 'a').write_text('2')
    assert content(out) == {'a': '1'} and [p.name for p in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('name', ['model.pth', 'model.safetensors', 'model.CKPT'])
def test_a_name_that_means_a_file(tmp_path, name):
    with pytest.raises(ValueError, match=f'OUT: .*{name} would be a folder'):
        check_folder(tmp_path / name, {'unet'}, 'OUT')
    (tmp_path / name).mkdir()
    assert check_folder(tmp_path / name, {'unet'}, 'OUT') == tmp_path / name


def test_check_folder(tmp_path):
    assert check_folder(tmp_path / 'new', {'unet'}, 'OUT') == tmp_path / 'new'
    (tmp_path / 'unet').mkdir()
    assert check_folder(tmp_path, {'unet'}, 'OUT') == tmp_path
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(ValueError, match=r'OUT: .* holds thesis\.tex, which this command has not written'):
        check_folder(tmp_path, {'unet'}, 'OUT')
    with pytest.raises(ValueError, match='is a file; give a folder'):
        check_folder(tmp_path / 'thesis.tex', {'unet'}, 'OUT')


def test_check_folder_by_a_mark(tmp_path):
    """Names that others use as well: only a file of our own says that it was us."""
    (tmp_path / 'config.json').touch()
    with pytest.raises(ValueError, match=r'holds config\.json, which this command has not written'):
        check_folder(tmp_path, {'config.json', 'record.json'}, 'OUT', 'record.json')
    (tmp_path / 'record.json').touch()
    assert check_folder(tmp_path, {'config.json', 'record.json'}, 'OUT', 'record.json') == tmp_path


def test_links_stay_links(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'file').write_text('0')
    (tmp_path / 'file').chmod(0o600)
    for name, target in (('out', 'disk'), ('link', 'file')):
        (tmp_path / name).symlink_to(tmp_path / target)
    with atomic_folder(tmp_path / 'out') as folder:
        (folder / 'a').write_text('1')
    atomic_write(tmp_path / 'link', lambda file: file.write(b'2'))
    assert (tmp_path / 'out').is_symlink() and content(tmp_path / 'disk') == {'a': '1'}
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'file').read_text() == '2'
    assert (tmp_path / 'file').stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ['disk', 'file', 'link', 'out']

"""The wheel: what is in it, and that it works away from the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ('configs', 'tools', 'slimdiff', 'requirements', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md',
         'LICENSE', 'model-index.yml')


def run(*command, **kwargs):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from a copy, so that the checkout gets no build/ folder."""
    source = tmp_path_factory.mktemp('source')
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns('__pycache__'))
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, source / part)
    out = tmp_path_factory.mktemp('wheel')
    run(sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--skip-dependency-check', '--outdir', out, source)
    return next(out.glob('slimdiff-*.whl'))


def test_the_wheel_holds_package_configs_and_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'slimdiff').rglob('*.py')}
    expected.add('slimdiff/search/report.html.j2')
    expected |= {f'slimdiff/.mim/{p.relative_to(ROOT).as_posix()}' for folder in ('configs', 'tools')
                 for suffix in ('py', 'sh') for p in (ROOT / folder).rglob(f'*.{suffix}')
                 if 'from studies' not in p.read_text()}
    expected |= {'slimdiff/.mim/model-index.yml', 'slimdiff/.mim/configs/sd/metafile.yml'}
    assert not expected - names
    unwanted = [n for n in names if n.split('/')[0] in ('tests', 'docs', 'benchmarks', 'studies') or '__pycache__' in n]
    assert not unwanted
    assert not {n for n in names if n.endswith(('tools/analysis_tools/reproduce.py', 'tools/misc/model_zoo.py'))}
    assert any(n.endswith('dist-info/licenses/LICENSE') or n.endswith('dist-info/LICENSE') for n in names)


def test_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    meta = archive.read(next(n for n in archive.namelist() if n.endswith('/METADATA'))).decode()
    assert 'Requires-Python: >=3.10' in meta
    requires = [line[len('Requires-Dist: '):] for line in meta.splitlines() if line.startswith('Requires-Dist: ')]
    names = {line.split('>')[0] for line in requires if 'extra ==' not in line}
    assert {'torch', 'mmengine', 'mmcv-lite', 'diffusers', 'PyWavelets', 'scikit-image'} <= names
    assert not {'mmcv', 'torch-fidelity', 'pytest', 'tensorboard'} & names
    for extra in ('tests', 'docs', 'fid', 'tensorboard', 'all'):
        assert f'Provides-Extra: {extra}' in meta
    entry_points = archive.read(next(n for n in archive.namelist() if n.endswith('/entry_points.txt'))).decode()
    assert 'slimdiff = slimdiff.cli.main:main' in entry_points


def test_the_installed_wheel_finds_its_own_configs_and_tools(wheel, tmp_path):
    """With the dependencies of this environment, but the package from the wheel and the checkout out of sight."""
    site = tmp_path / 'site'
    run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', site, wheel)
    env = {**os.environ, 'PYTHONPATH': str(site)}
    where = run(sys.executable, '-c', 'import slimdiff; print(slimdiff.__file__)', env=env, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    for command in (['-m', 'slimdiff.cli.main', 'print_config'], [site / 'slimdiff/.mim/tools/misc/print_config.py']):
        out = run(sys.executable, *command, 'configs/sd/photo_patches.py', env=env, cwd=tmp_path)
        assert "type='Distiller'" in out
    assert os.access(site / 'slimdiff/.mim/tools/dist_train.sh', os.X_OK)


@pytest.mark.slow
def test_the_wheel_installs_into_a_fresh_environment(wheel, tmp_path):
    run(sys.executable, '-m', 'venv', tmp_path / 'venv')
    python, slimdiff = (tmp_path / 'venv/bin' / name for name in ('python', 'slimdiff'))
    # With the checkout on PYTHONPATH pip would find slimdiff installed already.
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    run(python, '-m', 'pip', 'install', '--quiet', '-c', ROOT / 'requirements/tested.txt', wheel, env=env)
    out = run(slimdiff, 'print_config', 'configs/sd/photo_patches.py', env=env, cwd=tmp_path)
    assert "type='Distiller'" in out
    run(slimdiff, 'get_flops', 'configs/sd/photo_patches.py', env=env, cwd=tmp_path)

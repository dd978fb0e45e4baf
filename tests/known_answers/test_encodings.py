"""Text files are UTF-8 in every locale: whoever opens one says so."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [*(path for folder in ('slimdiff', 'tools', 'benchmarks', 'docs') for path in (ROOT / folder).rglob('*.py')),
           ROOT / 'setup.py']


def text_calls_without_encoding(source):
    """Line numbers of ``read_text``, ``write_text`` and text-mode ``open`` without an ``encoding``."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = getattr(call.func, 'attr', getattr(call.func, 'id', ''))
        if any(keyword.arg in ('encoding', None) for keyword in call.keywords):
            continue
        if name in ('read_text', 'write_text'):
            yield call.lineno
        elif name in ('open', 'fdopen'):
            # open(path, mode), path.open(mode); those of libraries (Image, tarfile, lmdb) and os.open are no text.
            owner = getattr(getattr(call.func, 'value', None), 'id', None)
            if owner in ('Image', 'tarfile', 'lmdb', 'zipfile') or (owner == 'os' and name == 'open'):
                continue
            place = 1 if isinstance(call.func, ast.Name) or owner == 'os' else 0
            mode = next((k.value for k in call.keywords if k.arg == 'mode'), (call.args + [None] * 2)[place])
            if mode is None or (isinstance(mode, ast.Constant) and 'b' not in str(mode.value)):
                yield call.lineno


@pytest.mark.parametrize('line, found', [
    ("open('x')", 1), ("open('x', 'rb')", 0), ("open('x', 'w')", 1), ("open('x', encoding='utf-8')", 0),
    ("path.open()", 1), ("path.open('wb')", 0), ("path.read_text()", 1), ("path.write_text('a', encoding='utf-8')", 0),
    ("os.fdopen(3, 'w')", 1), ("os.open('x', 0)", 0), ("open('x', mode)", 0), ("tarfile.open('x')", 0)])
def test_the_search_finds_them(line, found):
    assert len(list(text_calls_without_encoding(line))) == found


def test_every_text_file_is_opened_with_an_encoding():
    assert len(SOURCES) > 150
    found = [f'{path.relative_to(ROOT)}:{line}' for path in SOURCES
             for line in text_calls_without_encoding(path.read_text(encoding='utf-8'))]
    assert not found, found


COMMANDS = '''
import locale, sys
from pathlib import Path
assert locale.getpreferredencoding(False) not in ('utf-8', 'UTF-8'), locale.getpreferredencoding(False)
from slimdiff.cli.print_config import main
statuses = [main(['good.py']), main(['wrong.py'])]
from diffusers import DDPMScheduler
from slimdiff import UNet
from slimdiff.models.distillation.loading import load_teacher
UNet(sample_size=8, norm_groups=4, stages=[dict(channels=8)]).save_pretrained('teacher/unet')
DDPMScheduler().save_pretrained('teacher/scheduler')
for path in Path('teacher').rglob('*config.json'):
    path.write_text(path.read_text(encoding='utf-8').replace('{', '{"_note": "B\\u00e4r",', 1), encoding='utf-8')
load_teacher('teacher')
sys.exit(0 if statuses == [0, 2] else f'statuses {statuses}')
'''


def test_umlauts_in_an_ascii_locale(tmp_path):
    """A config, a mistake in one, and a teacher's JSON, each with letters beyond ASCII."""
    config = "# für Bären\nmodel = dict(type='DiffusionModel', unet=dict(type='UNet'), sample_captions=['ein Bär'])\n"
    (tmp_path / 'good.py').write_text(config, encoding='utf-8')
    (tmp_path / 'wrong.py').write_text(config.replace('captions', 'caption'), encoding='utf-8')
    done = subprocess.run([sys.executable, '-c', COMMANDS], cwd=tmp_path, capture_output=True, encoding='ascii',
                          env={**os.environ, 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0', 'LC_ALL': 'C'}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert r'ein B\xe4r' in done.stdout
    assert 'wrong.py:2: model.sample_caption' in done.stderr and 'Traceback' not in done.stderr

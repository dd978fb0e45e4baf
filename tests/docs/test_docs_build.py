import re
import subprocess
import sys
from pathlib import Path

import pytest

import slimdiff.search

DOCS = Path(__file__).resolve().parents[2] / 'docs/en'


def test_the_documentation_builds_without_warnings(tmp_path):
    pytest.importorskip('sphinx')
    done = subprocess.run([sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', str(DOCS),
                           str(tmp_path / 'html'), '-d', str(tmp_path / 'cache')], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / 'html/api.html').read_text()
    assert 'load_config' in html and 'dwt2' in html
    anchors = set(re.findall(r'id="slimdiff\.search\.[\w.]+\.(\w+)"', html))
    missing = set(slimdiff.search.__all__) - anchors
    assert not missing, f'docs/en/api.md has no entry for {missing}'

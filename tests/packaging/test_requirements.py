"""The requirement files agree with each other and with what the code imports."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# import name -> name on PyPI, where they differ
DISTRIBUTION = {'PIL': 'pillow', 'pywt': 'pywavelets', 'skimage': 'scikit-image', 'mmcv': 'mmcv-lite',
                'torch_fidelity': 'torch-fidelity', 'yaml': 'pyyaml'}
OPTIONAL = {'tensorboard', 'torch-fidelity', 'lmdb', 'webdataset', 'transformers', 'onnx', 'onnxruntime', 'onnxscript'}


def names(file):
    lines = (ROOT / 'requirements' / f'{file}.txt').read_text().splitlines()
    found = [re.match(r'[\w.-]+', line.partition('#')[0].strip()) for line in lines]
    return {match.group().lower().replace('_', '-') for match in found if match and not match.group().startswith('-')}


def imported(folder):
    found = set()
    for file in (ROOT / folder).rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split('.')[0])
    found -= set(sys.stdlib_module_names) | {'slimdiff'}
    return {DISTRIBUTION.get(name, name).lower().replace('_', '-') for name in found}


def test_everything_imported_is_required():
    assert not imported('slimdiff') - names('runtime') - OPTIONAL


def test_everything_required_is_imported():
    assert names('runtime') - imported('slimdiff') <= {'scikit-image', 'addict', 'accelerate'}  # photos; dicts; loading


@pytest.mark.parametrize('file', ['runtime', 'tests', 'docs', 'optional'])
def test_every_requirement_has_its_tested_version(file):
    assert not names(file) - names('tested') - {'torch-fidelity'}


def test_tested_versions_are_exact_and_portable():
    for line in (ROOT / 'requirements/tested.txt').read_text().splitlines():
        assert line.startswith('#') or re.fullmatch(r'[\w.-]+==[\w.]+', line), line


def test_setup_needs_neither_torch_nor_pkg_resources():
    tree = ast.parse((ROOT / 'setup.py').read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m.split('.')[0] for m in modules} <= {'re', 'shutil', 'pathlib', 'setuptools'}

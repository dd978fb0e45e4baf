"""What is said where a package of an extra is missing."""

import json
import re
import sys

import pytest

from slimdiff.cli.common import is_expected
from slimdiff.installation import PACKAGE
from slimdiff.optional import MissingPackageError, install_command, missing_package, optional_package, require_packages


def test_a_missing_package_names_the_extra_that_brings_it():
    with pytest.raises(ImportError, match=r"X needs the package 'no_such_package'.*pip install .*-e '.\[text\]'"):
        optional_package('no_such_package.part', 'text', 'X')


def test_a_package_that_is_there_is_imported():
    assert optional_package('json', 'text', 'X') is json


def test_a_broken_package_says_why(tmp_path, monkeypatch):
    (tmp_path / 'broken_package.py').write_text("raise ImportError('libbroken.so.1: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    require_packages(['broken_package'], 'text', 'X')  # looks, but imports nothing
    assert 'broken_package' not in sys.modules
    with pytest.raises(MissingPackageError, match=r'cannot be imported \(libbroken.so.1: no such file\)'):
        optional_package('broken_package', 'text', 'X')


def test_several_missing_packages_are_one_line():
    with pytest.raises(MissingPackageError) as caught:
        require_packages(['json', 'no_such_a', 'no_such_b'], 'onnx', 'ONNX')
    assert str(caught.value) == ("ONNX needs the packages 'no_such_a', 'no_such_b', which are not installed: "
                                 f'{install_command("onnx")}')
    assert str(missing_package('a', 'onnx', 'ONNX')) == ("ONNX needs the package 'a', which is not installed: "
                                                         f'{install_command("onnx")}')


def test_the_command_is_that_of_the_readme_in_a_checkout_and_names_the_wheel_elsewhere(tmp_path, monkeypatch):
    checkout = PACKAGE.parent
    command = install_command('onnx')
    assert command == f"pip install -c requirements/tested.txt -e '.[onnx]' (in {checkout})"
    assert (checkout / 'requirements/tested.txt').is_file()
    assert "pip install -c requirements/tested.txt -e '.[" in (checkout / 'README.md').read_text()
    monkeypatch.setattr('slimdiff.optional.PACKAGE', tmp_path / 'site-packages/slimdiff')
    assert re.fullmatch(r"pip install 'slimdiff-[\d.]+-py3-none-any\.whl\[onnx\]'", install_command('onnx'))


def test_a_command_shows_it_without_a_traceback():
    with pytest.raises(MissingPackageError) as caught:
        optional_package('no_such_package', 'text', 'X')
    assert is_expected(caught.value) and '\n' not in str(caught.value)

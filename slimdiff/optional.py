"""Packages that only some installations have: where one is missing, one line says which extra brings it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from types import ModuleType

from slimdiff.installation import PACKAGE
from slimdiff.version import __version__


class MissingPackageError(ImportError):
    """A package of one of slimdiff's extras is not installed, or cannot be imported."""


def install_command(extra: str) -> str:
    """How to install an extra: in the checkout of an editable install, else from the wheel."""
    checkout = PACKAGE.parent
    if not (checkout / 'setup.py').is_file():
        return f"pip install 'slimdiff-{__version__}-py3-none-any.whl[{extra}]'"
    return f"pip install -c requirements/tested.txt -e '.[{extra}]' (in {checkout})"


def missing_package(names: str | Sequence[str], extra: str, user: str,
                    error: ImportError | None = None) -> MissingPackageError:
    """The error for packages that aren't there, to be raised by the caller.

    Args:
        names: of one package, or of several.
        extra: of slimdiff, that brings them: ``datasets``, ``features``, ``text``, ``onnx``.
        user: what needs them, as the user knows it.
        error: what importing them raised: a package that is there may be broken.
    """
    names = [names] if isinstance(names, str) else names
    several = len(names) > 1
    state = f'{"are" if several else "is"} not installed' if error is None else f'cannot be imported ({error})'
    listed = ', '.join(f"'{name}'" for name in names)
    return MissingPackageError(f"{user} needs the package{'s' if several else ''} {listed}, which {state}: "
                               f'{install_command(extra)}')


def optional_package(name: str, extra: str, user: str) -> ModuleType:
    """Import a package, or a module in it, that only some installations have.

    Raises:
        MissingPackageError: see :func:`missing_package`.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_package(name.partition('.')[0], extra, user, error) from error


def require_packages(names: Sequence[str], extra: str, user: str) -> None:
    """Make sure that packages are there without importing them, which may take seconds.

    Raises:
        MissingPackageError: names those that aren't installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise missing_package(missing, extra, user)

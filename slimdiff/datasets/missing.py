"""What is said when data are not there: one line, and where to get them."""

from __future__ import annotations

from pathlib import Path

DOCS_PAGE = 'docs/en/user_guides/datasets.md'


class MissingDataError(ValueError):
    """The files of a data set are not where the config says."""


def missing_data(path: str | Path, what: str, section: str, argument: str = 'data_root') -> MissingDataError:
    """The error for a path at which nothing lies, to be raised by the caller.

    Args:
        path: as the config gave it.
        what: what should lie there: 'folder', 'zip archive'.
        section: anchor of the section of the user guide that says how to get the data.
        argument: of the data set that names it.
    """
    path = Path(path)
    looked = '' if path.is_absolute() else f' (looked at {path.absolute()})'
    return MissingDataError(f"{argument}: there is no {what} '{path}'{looked}. How to get the data: "
                            f'{DOCS_PAGE}#{section}')

"""The quick tour runs from top to bottom, and what it shows is what it says."""

import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / 'docs/en/quick_tour.ipynb'


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """The notebook after it ran, in a folder of its own, with this Python's own commands on the path."""
    folder = tmp_path_factory.mktemp('tour')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PATH', str(Path(sys.executable).parent), prepend=':')
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbclient.NotebookClient(notebook, timeout=500, kernel_name='python3',
                                resources={'metadata': {'path': str(folder)}}).execute()
    return notebook, folder


def texts(notebook):
    return '\n'.join(output.get('text', '') for cell in notebook.cells for output in cell.get('outputs', []))


def test_it_ends_with_files_pictures_and_a_faster_pipeline(executed):
    notebook, folder = executed
    pictures = [output for cell in notebook.cells for output in cell.get('outputs', [])
                if 'image/png' in output.get('data', {})]
    assert len(pictures) == 3
    for name in ('slim/student.py', 'slim/report.html', 'calibrated/allocation.json'):
        assert (folder / 'tour' / name).is_file()
    full, calibrated = map(float, re.search(r'([\d.]+) s, calibrated ([\d.]+) s', texts(notebook)).groups())
    assert calibrated < full


def test_the_outputs_in_the_file_are_those_of_its_cells(executed):
    """They are committed with their pictures: the student's size was not typed by hand."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    found = [re.search(r'student: (.*?)\s*$', texts(notebook), re.M)[1] for notebook in (committed, executed[0])]
    assert found[0] == found[1]

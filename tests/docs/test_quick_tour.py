"""The quick tour runs from top to bottom, and what it shows is what it says.

``python tests/docs/test_quick_tour.py`` runs it and writes its outputs into the file.
"""

import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / 'docs/en/quick_tour.ipynb'


def run(folder):
    """The notebook after it ran in ``folder``, with this Python's own commands on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PATH', str(Path(sys.executable).parent), prepend=':')
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbclient.NotebookClient(notebook, timeout=500, kernel_name='python3',
                                resources={'metadata': {'path': str(folder)}}).execute()
    return notebook


def shown(cell):
    """The outputs of a cell as they stay in the file: without stderr, progress bars, colours, second formats and
    the path of this checkout."""
    lines = ''.join(output.text for output in cell.outputs if output.get('name') == 'stdout').split('\n')
    lines = [re.sub(r'\x1b\[\d*m', '', line.rstrip('\r').rpartition('\r')[2]) for line in lines]
    text = '\n'.join(line for line in lines if not re.match(r'(.*\d%\||opening |.* - Saved )', line)).strip('\n')
    text = text.replace(str(NOTEBOOK.parents[2]), '/home/you/slimdiff')
    others = [output for output in cell.outputs if output.output_type != 'stream']
    for output in others:
        output.get('data', {}).pop('image/jpeg', None)
    return [*([nbformat.v4.new_output('stream', name='stdout', text=text + '\n')] if text else []), *others]


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tour')
    return run(folder), folder


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


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as place:
        tour = run(place)
    for part in tour.cells:
        part.metadata.pop('execution', None)
        if part.cell_type == 'code':
            part.outputs = shown(part)
    nbformat.write(tour, NOTEBOOK)

"""Makes `import tiny_run` work in the tests of this folder."""

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Runs are equal bit for bit at a fixed number of threads; the processes that tests start have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

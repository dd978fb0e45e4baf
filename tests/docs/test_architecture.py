"""Every file that the architecture page sends a reader to is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_files_of_the_page_exist():
    named = re.findall(r'`(slimdiff/[\w/]+\.py)`', (ROOT / 'docs/en/advanced/architecture.md').read_text())
    assert len(named) > 30 and not [name for name in named if not (ROOT / name).is_file()]

"""Every file that the architecture page sends a reader to is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_files_of_the_page_exist():
    named = re.findall(r'`(slimdiff/[\w/]+\.py)`', (ROOT / 'docs/en/advanced/architecture.md').read_text())
    assert len(named) > 30 and not [name for name in named if not (ROOT / name).is_file()]


def test_a_step_is_few_files():
    text = (ROOT / 'docs/en/advanced/architecture.md').read_text()
    counts = {name: len(re.findall(r'^\d\. `slimdiff/', part, re.M))
              for name, part in re.findall(r'^## (\w+)\n(.*?)(?=^## |\Z)', text, re.M | re.S)}
    assert counts['Train'] <= 8 and 7 + counts['Distil'] <= 12

"""Sphinx: `pip install -e '.[docs]' && sphinx-build -W -b html docs/en docs/_build/html`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

project = 'slimdiff'
author = 'slimdiff authors'
copyright = '2026, slimdiff authors'
release = re.search(r"__version__ = '([^']+)'", (ROOT / 'slimdiff/version.py').read_text(encoding='utf-8')).group(1)
version = release

extensions = ['sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode', 'myst_parser']
source_suffix = {'.md': 'markdown'}
# The tables that tools/analysis_tools/reproduce.py writes are included by their pages.
exclude_patterns = ['_build', 'experiments/_generated']
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3

# Docstrings are Google style, with types in the signatures only.
autodoc_typehints = 'signature'
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
napoleon_use_rtype = False

html_theme = 'furo'
html_title = f'slimdiff {release}'


def escape_bars(app, what, name, obj, options, lines):
    """Show |x| as it is: reStructuredText takes a bar for the start of a substitution. Literals stay as they are."""
    for i, line in enumerate(lines):
        parts = re.split(r'(``.*?``)', line)
        lines[i] = ''.join(part if part.startswith('``') else part.replace('|', r'\|') for part in parts)


def setup(app):
    # After napoleon, which makes reStructuredText of the docstring.
    app.connect('autodoc-process-docstring', escape_bars, priority=900)

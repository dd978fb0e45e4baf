#!/usr/bin/env python
"""`python tools/search.py ...` is `slimdiff search ...`."""

import sys

from slimdiff.cli.search import main

if __name__ == '__main__':
    sys.exit(main())

#!/usr/bin/env python
"""`python tools/analysis_tools/reproduce.py ...` is `slimdiff reproduce ...`."""

import sys

from slimdiff.cli.reproduce import main

if __name__ == '__main__':
    sys.exit(main())

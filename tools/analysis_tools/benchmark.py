#!/usr/bin/env python
"""`python tools/analysis_tools/benchmark.py ...` is `slimdiff benchmark ...`."""

import sys

from slimdiff.cli.benchmark import main

if __name__ == '__main__':
    sys.exit(main())

#!/usr/bin/env python
"""`python tools/analysis_tools/compare_allocations.py ...` is `slimdiff compare_allocations ...`."""

import sys

from slimdiff.cli.compare_allocations import main

if __name__ == '__main__':
    sys.exit(main())

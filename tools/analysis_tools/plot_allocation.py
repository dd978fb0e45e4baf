#!/usr/bin/env python
"""`python tools/analysis_tools/plot_allocation.py ...` is `slimdiff plot_allocation ...`."""

import sys

from slimdiff.cli.plot_allocation import main

if __name__ == '__main__':
    sys.exit(main())

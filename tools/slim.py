#!/usr/bin/env python
"""`python tools/calibrate.py ...` is `slimdiff calibrate ...`."""

import sys

from slimdiff.cli.calibrate import main

if __name__ == '__main__':
    sys.exit(main())

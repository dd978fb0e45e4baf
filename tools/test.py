#!/usr/bin/env python
"""`python tools/test.py ...` is `slimdiff test ...`."""

import sys

from slimdiff.cli.test import main

if __name__ == '__main__':
    sys.exit(main())

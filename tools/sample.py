#!/usr/bin/env python
"""`python tools/sample.py ...` is `slimdiff sample ...`."""

import sys

from slimdiff.cli.sample import main

if __name__ == '__main__':
    sys.exit(main())

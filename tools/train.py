#!/usr/bin/env python
"""`python tools/train.py ...` is `slimdiff train ...`."""

import sys

from slimdiff.cli.train import main

if __name__ == '__main__':
    sys.exit(main())

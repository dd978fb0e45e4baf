#!/usr/bin/env python
"""`python tools/slim.py ...` is `slimdiff slim ...`."""

import sys

from slimdiff.cli.slim import main

if __name__ == '__main__':
    sys.exit(main())

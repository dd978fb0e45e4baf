#!/usr/bin/env python
"""`python tools/misc/print_config.py ...` is `slimdiff print_config ...`."""

import sys

from slimdiff.cli.print_config import main

if __name__ == '__main__':
    sys.exit(main())

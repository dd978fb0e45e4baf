#!/usr/bin/env python
"""`python tools/misc/browse_dataset.py ...` is `slimdiff browse_dataset ...`."""

import sys

from slimdiff.cli.browse_dataset import main

if __name__ == '__main__':
    sys.exit(main())

#!/usr/bin/env python
"""`python tools/misc/model_zoo.py ...` is `slimdiff model_zoo ...`."""

import sys

from slimdiff.cli.model_zoo import main

if __name__ == '__main__':
    sys.exit(main())

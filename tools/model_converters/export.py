#!/usr/bin/env python
"""`python tools/model_converters/export.py ...` is `slimdiff export ...`."""

import sys

from slimdiff.cli.export import main

if __name__ == '__main__':
    sys.exit(main())

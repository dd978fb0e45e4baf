#!/usr/bin/env python
"""`python tools/model_converters/compvis_to_slimdiff.py ...` is `slimdiff convert ...`."""

import sys

from slimdiff.cli.convert import main

if __name__ == '__main__':
    sys.exit(main())

#!/usr/bin/env python
"""`python tools/model_converters/publish_model.py ...` is `slimdiff publish ...`."""

import sys

from slimdiff.cli.publish import main

if __name__ == '__main__':
    sys.exit(main())

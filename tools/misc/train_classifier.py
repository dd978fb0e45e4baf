#!/usr/bin/env python
"""`python tools/misc/train_classifier.py ...` is `slimdiff train_classifier ...`."""

import sys

from slimdiff.cli.train_classifier import main

if __name__ == '__main__':
    sys.exit(main())

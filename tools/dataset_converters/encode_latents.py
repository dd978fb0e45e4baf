#!/usr/bin/env python
"""`python tools/dataset_converters/encode_latents.py ...` is `slimdiff encode_latents ...`."""

import sys

from slimdiff.cli.encode_latents import main

if __name__ == '__main__':
    sys.exit(main())

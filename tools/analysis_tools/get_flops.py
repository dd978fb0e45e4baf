"""Parameters and MACs of a config's network; same as ``slimdiff get_flops``."""

import sys

from slimdiff.cli.get_flops import main

if __name__ == '__main__':
    sys.exit(main())

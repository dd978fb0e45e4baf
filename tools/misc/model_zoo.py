#!/usr/bin/env python
"""Write the model zoo's pages and metafiles (a checkout only)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # studies/ is not part of the installed package

from studies.model_zoo.command import main

if __name__ == '__main__':
    sys.exit(main())

"""Makes the tiny text encoders of the conditioners' tests importable here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'models/conditioners'))

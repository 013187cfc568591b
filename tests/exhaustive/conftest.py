"""Let these tests find the simulator by the name it has for `python -m tests.exhaustive`."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

"""Makes ``cases.py`` importable: under ``--import-mode=importlib`` pytest leaves ``sys.path`` as it is."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

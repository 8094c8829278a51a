"""The benchmarks are scripts, not a package; their folders are searched as Python searches that of a script."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS / name) for name in ("accuracy", "conformers", "data", "dynamics")]

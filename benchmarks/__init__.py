"""Benchmarks of spworkers beside its peers: `python -m benchmarks --help`; README.md says what the figures mean."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
# Run from the top of the source tree, benchmarks is found there; spworkers shall be the installed one if there is one.
sys.path[:] = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != ROOT] + [ROOT]

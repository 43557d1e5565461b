"""`python -m spworkers.cli.macat`: the command, where its script is not on the path."""

from __future__ import annotations

import sys

from spworkers.cli.entry import macat

if __name__ == "__main__":
    sys.argv[0] = "macat"
    macat()

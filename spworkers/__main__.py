"""`python -m spworkers`: the command, where its script is not on the path."""

from __future__ import annotations

from spworkers.cli.entry import spworkers

if __name__ == "__main__":
    spworkers()

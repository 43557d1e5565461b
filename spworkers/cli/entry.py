"""Where the commands begin: Ctrl-C is quiet from here on, also while everything else is being imported."""

from __future__ import annotations

import signal
import sys

__all__ = ["macat", "spworkers"]


def spworkers() -> None:
    """The command `spworkers`."""
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGHUP, lambda *_: None)  # it has workers replaced; until there are some it is nothing
    try:
        from spworkers.cli.main import main

        main(prog_name="spworkers")
    except KeyboardInterrupt:  # as click has it, once it runs
        print("Aborted!", file=sys.stderr)
        sys.exit(1)


def macat() -> None:
    """The command `macat`."""
    try:
        from spworkers.cli.macat.app import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

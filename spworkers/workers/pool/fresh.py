"""A worker in a fresh interpreter: the supervisor's child becomes it by exec, with the same pid and descriptors.

For tasks that must not share anything with other processes: a library that cannot stand a fork, say.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import NoReturn

from spworkers.packet import anonymous_file
from spworkers.supervisor.boot import Boot

__all__ = ["main", "run"]

_STUB = (
    "import sys, pickle; file = open(int(sys.argv[1]), 'rb'); path, fds, spec = pickle.load(file); file.close();"
    " sys.path[:] = path; from spworkers.workers.pool.fresh import main; main(fds, spec)"
)


def run(boot: Boot) -> NoReturn:
    """The entry point, in the forked child: exec."""
    about = anonymous_file(pickle.dumps((sys.path, boot.fds, boot.spec)), "spworkers-spawn")
    for fd in (about, *boot.fds):
        os.set_inheritable(fd, True)
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    os.execv(sys.executable, [sys.executable, *flags, "-c", _STUB, str(about)])


def main(fds: list[int], spec: dict[str, object]) -> NoReturn:
    """In the fresh interpreter: be a worker, and end without taking leave of what the tasks have left."""
    from spworkers.workers.pool.inside import live

    for fd in fds:
        os.set_inheritable(fd, False)
    code = 1
    try:
        code = live(fds, spec)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

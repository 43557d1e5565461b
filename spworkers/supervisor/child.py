"""From fork to role: what a child does before and after the code of its role, which it never leaves but through
`_exit`.

It runs inside the frames of the supervisor that forked it. Those keep alive whatever the supervisor held, whose
descriptors are closed here: were one of those objects collected, it would close a number that is another file's by now.
(gc.freeze sees to cycles.)
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import time
import traceback
from typing import Any, Final, NoReturn

from spworkers.errors import ChannelClosedError, SPError
from spworkers.lean import lean
from spworkers.supervisor.boot import Boot, Entry, environment, load_entry, set_environment
from spworkers.supervisor.forking import fork
from spworkers.supervisor.system import close_all_but, die_with_parent, name_process

__all__ = ["Plan", "Surroundings", "fork_child"]

# `systemctl stop` and container runtimes signal every process of a program at once. An I/O process has to outlive that,
# so that the user's process can drain what is queued; it goes when it is told to, or with its supervisor.
IGNORING: Final = frozenset({"io", "web"})
"""Roles that ignore SIGINT, SIGTERM and SIGHUP, and leave SIGCHLD to the supervisor's handler, which does nothing.
Others have Python's defaults: a worker runs foreign code, whose subprocesses would inherit it."""
_ENVIRONMENT: Final = environment()
"""The supervisor's; it does not change."""
# What is behind `signal.signal`, and plain numbers: its enumerations are Python code, which copies pages for each line.
_set_handler: Final = getattr(sys.modules.get("_signal"), "signal", signal.signal)
_DEFAULT: Final = int(signal.SIG_DFL)
_SIGCHLD, _SIGINT, _SIGTERM, _SIGHUP = map(int, (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
TRACEBACK_LIMIT: Final = 32 << 10  # characters that are sent to the supervisor; a recursion's traceback is long


@lean
class Surroundings:
    """What a process inherits from its parent, had the user's process forked it.

    Args:
        env: the environment, as `boot.environment` packs it.
        cwd: the working directory; None: it has none any more.
        umask: the mask of file modes.
        path: sys.path.
    """

    env: bytes
    cwd: str | None
    umask: int
    path: list[str]


@lean
class Plan:
    """One child to be.

    Args:
        boot: for its entry point.
        role: "io", "worker", or another with an entry point of its own.
        entry: "module:function".
        run: that function, where it is imported already.
        surroundings: see there.
        fd_limit: RLIMIT_NOFILE to restore; None: it was not changed.
        last_traceback: what its predecessor printed before it died; not printed a second time.
    """

    boot: Boot
    role: str
    entry: str
    surroundings: Surroundings
    run: Entry | None = None
    fd_limit: tuple[int, int] | None = None
    last_traceback: str = ""


def fork_child(plan: Plan) -> int:
    """Fork a child that does its plan, and lead its own process group.

    Returns:
        Its pid. In the child it does not return.

    Raises:
        OSError: the system has no room for another process.
    """
    supervisor = os.getpid()
    gc.freeze()  # no collection of the child touches the pages that it shares with us, or closes what is ours
    pid = fork()
    if pid == 0:
        _live(plan, supervisor)
    with contextlib.suppress(OSError):  # both do it, whoever is first: neither may go on without
        os.setpgid(pid, pid)
    return pid


def _live(plan: Plan, supervisor: int) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(supervisor)
        _settle(plan)
        code = _run(plan)
        if code == 0:  # it came to its end, as os._exit(0) in foreign code would not
            plan.boot.channel.send({"t": "finished"}, timeout=1.0)
    except BaseException as error:
        code = _last_words(plan, error)
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def _settle(plan: Plan) -> None:
    _reset_signals(plan.role)
    boot = plan.boot
    kept = [fd for _, fds in boot.kept.values() for fd in fds]
    close_all_but({0, 1, 2, boot.channel.fileno(), *boot.fds, *kept})
    if plan.fd_limit is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, plan.fd_limit)
    name_process(f"spw-{plan.role}")
    _surround(plan.surroundings)
    gc.enable()


def _reset_signals(role: str) -> None:
    signal.set_wakeup_fd(-1)
    if role in IGNORING:  # as the supervisor does: there is no moment at which they kill
        return
    _set_handler(_SIGCHLD, _DEFAULT)
    _set_handler(_SIGINT, signal.default_int_handler)
    _set_handler(_SIGTERM, _DEFAULT)
    _set_handler(_SIGHUP, _DEFAULT)


def _surround(surroundings: Surroundings) -> None:
    if surroundings.env != _ENVIRONMENT:
        set_environment(surroundings.env)
        time.tzset()
    os.umask(surroundings.umask)
    os.chdir("/" if surroundings.cwd is None else surroundings.cwd)
    if sys.path != surroundings.path:
        sys.path[:] = surroundings.path


def _run(plan: Plan) -> int:
    code: Any = (plan.run or load_entry(plan.entry))(plan.boot)
    if code is not None and not isinstance(code, int):
        raise TypeError(f"entry point {plan.entry!r} returned {code!r}; it has to return None or an exit code")
    return (code or 0) & 0xFF


def _last_words(plan: Plan, error: BaseException) -> int:
    """Report what ended the role to the supervisor and on stderr; returns the exit code."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    reason = "".join(traceback.format_exception_only(type(error), error)).strip()
    try:
        plan.boot.channel.try_send({"t": "crash", "reason": reason[:1000], "traceback": text[-TRACEBACK_LIMIT:]})
    except ChannelClosedError:
        return 1  # the supervisor died, and we are about to: whatever failed here failed of that
    except SPError:
        pass
    # Should nobody read stderr, this waits; the supervisor, who had the report above, does not wait for it.
    if text[-TRACEBACK_LIMIT:] != plan.last_traceback:
        with contextlib.suppress(OSError, ValueError):
            boot = plan.boot
            sys.stderr.write(f"spworkers: {plan.role} {boot.key!r} (pid {os.getpid()}) failed:\n{text}")
            sys.stderr.flush()
    return 1

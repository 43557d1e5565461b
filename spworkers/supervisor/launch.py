"""Starting a supervisor from a process with threads: by exec, never by fork alone.

descriptors of the new process: 0 /dev/null, 1 and 2 as here, 3 its channel, 4 a file with sys.path, 5 a pidfd of
this process
"""

from __future__ import annotations

import fcntl
import marshal
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

from spworkers.channel import Channel
from spworkers.errors import ResourceError, SupervisorError, from_os_error
from spworkers.lean import lean
from spworkers.packet import anonymous_file, close_fds
from spworkers.supervisor.brood import MARK, apart, mark
from spworkers.supervisor.watch import ProcessWatch, own_pidfd, watch_process

__all__ = ["Launched", "absolute_path", "launch"]

# sys.path first: the new process has to find the same spworkers as this one, wherever that is. Until then, built-in
# modules only.
_STUB: Final = (
    "import gc, marshal, sys; gc.disable(); file = open(4, 'rb'); sys.path[:] = marshal.load(file); file.close(); "
    "from spworkers.supervisor.forking import repairs_left_out; repairs_left_out(True); "
    "from spworkers.supervisor.main import main; main(sys.argv[2:])"
)
_LABEL: Final = "spworkers-supervisor"  # for who looks at `ps`
_CHANNEL, _PATH, _PARENT = 3, 4, 5
_DEFAULT_SIGNALS: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_XOPTIONS_LEFT_OUT: Final = frozenset({"importtime", "showrefcount", "presite"})  # they print


@lean
class Launched:
    """A supervisor that was started; it may not have reached its first line yet."""

    pid: int
    mark: str
    channel: Channel
    watch: ProcessWatch | None


def launch(preload: Sequence[str]) -> Launched:
    """Start a supervisor for this process.

    Args:
        preload: modules that it imports before its first fork.

    Raises:
        ResourceError: no descriptor, process or memory is left for it.
        SupervisorError: the system does not start it; the reason is the cause.
    """
    if not sys.executable:
        raise SupervisorError(
            "cannot start the supervisor: sys.executable is not set, as in programs that embed Python; set it to a"
            " Python interpreter that can import spworkers"
        )
    ours, theirs = Channel.pair()
    opened: list[int] = []
    try:
        opened.append(anonymous_file(marshal.dumps(absolute_path()), "spworkers-path"))
        parent = own_pidfd()
        opened += [] if parent is None else [parent]
        numbers = [_CHANNEL, -1 if parent is None else _PARENT, os.getpid()]
        arguments = [sys.executable, *_flags(), "-c", _STUB, _LABEL, *map(str, numbers), *preload]
        name = mark()
        pid = _spawn(arguments, {**os.environ, MARK: name}, [theirs.fileno(), *opened], opened)
    except OSError as error:
        ours.close()
        told = from_os_error(error, f"start the supervisor with {sys.executable}")
        if isinstance(told, (SupervisorError, ResourceError)):
            raise told  # noqa: B904 - its cause it has, or it is the error itself
        raise SupervisorError(f"cannot start the supervisor with {sys.executable}: {error}") from error
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        close_fds(opened)
    return Launched(pid, name, ours, watch_process(pid))


def _spawn(arguments: list[str], environment: dict[str, str], fds: list[int], opened: list[int]) -> int:
    """Exec with `fds` as 3, 4, ...; adds what it opens to `opened`."""
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    for number in (1, 2):
        if _is_open(number):  # onto itself: that takes FD_CLOEXEC off in the new process
            actions.append((os.POSIX_SPAWN_DUP2, number, number))
        else:  # else the next file that it opens would be its stderr
            actions.append((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0))
    for target, fd in enumerate(fds, _CHANNEL):
        # Out of the way of the targets: else a later dup2 could overwrite the source of an earlier one.
        source = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _CHANNEL + len(fds))
        opened.append(source)
        actions.append((os.POSIX_SPAWN_DUP2, source, target))
    spawn: dict[str, Any] = {"file_actions": actions, "setsigmask": [], "setsigdef": _DEFAULT_SIGNALS}
    try:
        return os.posix_spawn(sys.executable, arguments, environment, **apart(), **spawn)
    except NotImplementedError:  # an old C library; the supervisor does it itself
        return os.posix_spawn(sys.executable, arguments, environment, **spawn)


def _is_open(fd: int) -> bool:
    """Whether it is standard output (1) or error (2), and not another file that has the number of a closed one."""
    if (sys.__stdout__ if fd == 1 else sys.__stderr__) is None:
        return False
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def absolute_path() -> list[str]:
    """sys.path, as another working directory needs it."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed; nothing can be imported from there
        here = ""
    paths = (os.path.join(here, entry) if here else entry for entry in sys.path if isinstance(entry, str))
    return [os.path.normpath(entry) for entry in paths if os.path.isabs(entry)]


def _flags() -> list[str]:
    """The options of this interpreter that change what code means; as multiprocessing's children have them."""
    flags = sys.flags
    letters = {
        "B": flags.dont_write_bytecode,
        "s": flags.no_user_site,
        "S": flags.no_site,
        "E": flags.ignore_environment,
        "I": flags.isolated,
        "b": flags.bytes_warning,
        "O": flags.optimize,
        "P": getattr(flags, "safe_path", False),
    }
    given = [f"-{letter * int(count)}" for letter, count in letters.items() if count]
    given += [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        if name not in _XOPTIONS_LEFT_OUT:
            given.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return given

"""How many descriptors this process may have. A socket takes five, a context two, and the usual limit is 1024.

That limit is the soft one, which a process may raise for itself up to the hard one; the soft one is that low for
programs that use `select`, which knows no more. So it is raised when it is needed, and not before.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections.abc import Callable
from typing import Final, TypeVar

from spworkers.errors import ResourceError

__all__ = ["made", "plenty", "raise_limit"]

T = TypeVar("T")

MOST: Final = 65_536
"""Beyond it a hard limit of a thousand million would make every table of descriptors huge."""

_NONE_LEFT: Final = (errno.EMFILE, errno.ENFILE)

_raised_in = 0
"""The process that has raised its limit: a child that it forks has another one, perhaps."""


def raise_limit() -> tuple[int, int] | None:
    """Allow this process as many descriptors as it may have; once: whoever lowers the limit after that means it.

    Returns:
        The limits before, soft and hard; None: nothing could be changed.
    """
    global _raised_in
    if _raised_in == os.getpid():
        return None
    _raised_in = os.getpid()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return None
    return soft, hard


def made(make: Callable[[], T], what: str) -> T:
    """What `make()` returns. If there is no descriptor left for it, the limit is raised, and it is tried once more.

    Args:
        make: leaves nothing behind when it fails.
        what: it makes, in words.

    Raises:
        ResourceError: there is none left, and the limit cannot be raised.
    """
    try:
        return make()
    except OSError as error:
        if error.errno not in _NONE_LEFT:
            raise
        if not _raised():
            raise _exhausted(what, error) from error
    try:
        return make()
    except OSError as error:
        raise _exhausted(what, error) from error


def plenty(fd: int) -> int:
    """A descriptor just made. While a quarter of the limit is left others find some, too: else it is raised.

    Returns:
        The same.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY and fd >= soft * 3 // 4:
        _raised()
    return fd


def _raised() -> bool:
    before = raise_limit()
    if before is not None:
        log = logging.getLogger("spworkers")
        log.info("the soft limit of open files, %d, was raised: sockets and contexts take several each", before[0])
    return before is not None


def _exhausted(what: str, error: OSError) -> ResourceError:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return ResourceError(
        f"no descriptor is left for {what}: {error.strerror}; this process may have {limit} (`ulimit -n`, which could"
        " not be raised further), and a socket takes five, a context two: close some, or have the limit raised"
    )

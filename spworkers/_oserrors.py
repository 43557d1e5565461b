"""Which of our errors stands for which of the operating system's; by name, so that this imports nothing of ours."""

from __future__ import annotations

import errno
import re

__all__ = ["classify"]

_BY_ERRNO = {
    number: name
    for name, numbers in {
        # EPROTOTYPE: the socket file is there, but it is one of datagrams.
        "ConnRefusedError": (errno.ECONNREFUSED, errno.EPROTOTYPE),
        "AddrInUseError": (errno.EADDRINUSE,),
        "ConnTimeoutError": (errno.ETIMEDOUT,),
        "AccessDeniedError": (errno.EACCES, errno.EPERM),
        "ConnResetError": (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN),
        "ResourceError": (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC),
        "BadAddrError": (
            errno.EADDRNOTAVAIL,
            errno.EAFNOSUPPORT,
            errno.EINVAL,
            errno.EISDIR,
            errno.ENAMETOOLONG,
            errno.ENOENT,
            errno.ENOTDIR,
            errno.EROFS,
        ),
    }.items()
    for number in numbers
}
_BY_TYPE: dict[type[OSError], str] = {  # for those that come without a number, as asyncio's do
    ConnectionRefusedError: "ConnRefusedError",
    TimeoutError: "ConnTimeoutError",
    ConnectionError: "ConnResetError",
    PermissionError: "AccessDeniedError",
}


def classify(error: OSError, *, dialing: bool) -> tuple[str, int | None]:
    """The name of our error's class, and the number of the system's (None if it has none).

    Args:
        error: what the system said.
        dialing: a missing file means that nobody listens there; otherwise, that the path is wrong.
    """
    if type(error).__module__ == "ssl":  # by name: importing ssl would cost every program some milliseconds
        return "TLSError", None
    if type(error).__name__ in ("gaierror", "herror"):  # they have numbers of their own, which are no errno
        return "BadAddrError", None
    number = _number_of(error)
    if number == errno.ENOENT and dialing:
        return "ConnRefusedError", number
    if number is not None:
        return _BY_ERRNO.get(number, "NetworkError"), number
    if "AF_UNIX" in str(error):  # "AF_UNIX path too long" has no number
        return "BadAddrError", None
    return next((ours for theirs, ours in _BY_TYPE.items() if isinstance(error, theirs)), "NetworkError"), None


def _number_of(error: OSError) -> int | None:
    if error.errno is not None:
        return error.errno
    # asyncio sums up a host's several addresses in one text: "Multiple exceptions: [Errno 111] ..., [Errno 101] ...".
    numbers = [int(found) for found in re.findall(r"\[Errno (\d+)\]", str(error))]
    return errno.ECONNREFUSED if errno.ECONNREFUSED in numbers else next(iter(numbers), None)

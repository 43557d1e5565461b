"""Who is at the other end of a unix socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

_LINUX_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid

# macOS, from <sys/un.h> and <sys/ucred.h>: struct xucred {version, uid, number of groups, 16 groups}; the first group
# is the effective one. The process id has an option of its own.
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
_LOCAL_PEERPID = 2
_XUCRED = struct.Struct("=IIh2x16I")
_XUCRED_VERSION = 0


def credentials(sock: socket.socket) -> dict[str, object]:
    """`PEER-PID`, `PEER-UID` and `PEER-GID` of a connected unix socket, as far as the system tells.

    For the dialling side they are those of the process that called listen, for the other side those of the one that
    called connect: whoever has got the descriptor since then does not appear.
    """
    if sys.platform == "darwin":
        return _darwin(sock)
    if hasattr(socket, "SO_PEERCRED"):
        with contextlib.suppress(OSError):
            pid, uid, gid = _LINUX_UCRED.unpack(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _LINUX_UCRED.size)
            )
            return {"PEER-PID": pid, "PEER-UID": uid, "PEER-GID": gid}
    return {}


def _darwin(sock: socket.socket) -> dict[str, object]:
    found: dict[str, object] = {}
    with contextlib.suppress(OSError):
        found["PEER-PID"] = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)
    with contextlib.suppress(OSError):
        found.update(parse_xucred(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size)))
    return found


def parse_xucred(data: bytes) -> dict[str, object]:
    """Effective user and group of a BSD `struct xucred`; nothing of one that has another version."""
    if len(data) < _XUCRED.size:
        return {}
    version, uid, count, *groups = _XUCRED.unpack_from(data)
    if version != _XUCRED_VERSION:
        return {}
    return {"PEER-UID": uid, "PEER-GID": groups[0]} if count > 0 else {"PEER-UID": uid}

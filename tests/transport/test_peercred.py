"""Who is at the other end of a unix socket."""

from __future__ import annotations

import os
import socket
import struct
import sys

import pytest

from spworkers.transport import peercred
from spworkers.transport.peercred import credentials, parse_xucred


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SO_PEERCRED is Linux's")
def test_both_sides_on_linux() -> None:
    one, other = socket.socketpair()
    with one, other:
        for sock in (one, other):
            assert credentials(sock) == {"PEER-PID": os.getpid(), "PEER-UID": os.geteuid(), "PEER-GID": os.getegid()}


def test_what_the_system_does_not_tell_is_missing() -> None:
    closed = socket.socket(socket.AF_UNIX)
    closed.close()
    assert credentials(closed) == {}


class Darwin:
    """A socket that answers as macOS does."""

    def __init__(self, groups: int = 2, version: int = 0) -> None:
        self.xucred = struct.pack("=IIh2x16I", version, 501, groups, 20, 12, *[0] * 14)

    def getsockopt(self, level: int, option: int, size: int = 0) -> object:
        return {(0, 1): self.xucred[:size], (0, 2): 4711}[level, option]


def test_both_options_of_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = credentials(Darwin())  # type: ignore[arg-type]
    assert found == {"PEER-PID": 4711, "PEER-UID": 501, "PEER-GID": 20}


def test_the_structure_of_macos() -> None:
    assert peercred._XUCRED.size == 76  # 4 + 4 + 2 + 2 of padding + 16 * 4
    assert parse_xucred(Darwin(groups=0).xucred) == {"PEER-UID": 501}
    assert parse_xucred(Darwin(version=1).xucred) == {}
    assert parse_xucred(b"short") == {}

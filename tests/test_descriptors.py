"""The limit of open files is raised when it is needed; where that cannot be, an error says what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap

import pytest

import spworkers as sp
from spworkers import _descriptors
from spworkers._descriptors import made


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.once
def test_as_many_sockets_as_the_hard_limit_lets() -> None:
    """With room for some twenty there are forty, each with a context, and the program's own files have room as well."""
    script = """
        import contextlib, resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        import spworkers as sp

        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(sp.Req()) for _ in range(20)]
            print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            socks += [stack.enter_context(sp.Req()) for _ in range(20)]
            contexts = [stack.enter_context(sock.open_context()) for sock in socks]
            print(len(socks), resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 128)
    """
    first, second = run(script).splitlines()
    assert int(first) > 128, "not before there is none left, but when a quarter is"
    assert second == "40 True"


@pytest.mark.once
def test_where_the_limit_is_hard_the_error_says_so_and_nothing_is_lost() -> None:
    script = """
        import os, resource
        import spworkers as sp

        with sp.Req() as req:
            fds = [os.open("/", os.O_RDONLY)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (fds[0] + 12, fds[0] + 12))
            before = len(os.listdir("/proc/self/fd"))
            for attempt in (req.open_context, sp.Pull, lambda: sp.Pull(listen="inproc://x")):
                while True:
                    try:
                        fds.append(os.dup(fds[0]))
                    except OSError:
                        break
                os.close(fds.pop())  # there is one left, and now each attempt fails a step later
                try:
                    attempt()
                except sp.ResourceError as error:
                    assert "close some, or have the limit raised" in str(error), error
                    print(str(error).partition(":")[0])
                while len(fds) > 1:
                    os.close(fds.pop())
                assert len(os.listdir("/proc/self/fd")) == before
            with req.open_context():
                print("open again")
    """
    assert run(script).splitlines() == [
        *["no descriptor is left for a doorbell"] * 3,
        "open again",
    ]


def test_it_is_tried_once_more_if_the_limit_could_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    full = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))]

    def make() -> int:
        if full:
            raise full.pop()
        return 7

    monkeypatch.setattr(_descriptors, "raise_limit", lambda: (1024, 4096))
    assert made(make, "a test") == 7
    full += [OSError(errno.ENFILE, "x"), OSError(errno.EMFILE, "x")]
    with pytest.raises(sp.ResourceError, match=r"no descriptor is left for a test: x; this process may have \d+"):
        made(make, "a test")
    full += [OSError(errno.EMFILE, "x")]
    monkeypatch.setattr(_descriptors, "raise_limit", lambda: None)
    with pytest.raises(sp.ResourceError, match="no descriptor is left"):
        made(make, "a test")


def test_other_errors_are_not_its_business() -> None:
    with pytest.raises(PermissionError):
        made(lambda: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no")), "a test")

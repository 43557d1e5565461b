"""Options as attributes: what is none is an error that helps, for reading and for writing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import spworkers as sp
from spworkers.testing import eventually

BOUND = 20.0  # seconds


@pytest.fixture(scope="module")
def handles() -> Iterator[dict[str, Any]]:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Req(dial=rep.listeners[0].address) as req:
        eventually(lambda: rep.pipes, BOUND)
        with rep.open_context() as context:
            yield {
                "socket": rep,
                "context": context,
                "dialer": req.dialers[0],
                "listener": rep.listeners[0],
                "pipe": rep.pipes[0],
            }


@pytest.mark.parametrize("kind", ["socket", "context"])
def test_a_misspelt_option_is_an_error(handles: dict[str, Any], kind: str) -> None:
    with pytest.raises(sp.BadOptionError, match="'recv_dedline'; did you mean recv_deadline"):
        handles[kind].recv_dedline = 1.0
    with pytest.raises(AttributeError, match="'recv_dedline'") as caught:
        print(handles[kind].recv_dedline)
    assert (caught.value.name, caught.value.obj) == ("recv_dedline", handles[kind]), (
        "what Python needs to suggest another"
    )
    assert "recv_deadline" in dir(handles[kind])


@pytest.mark.parametrize("kind", ["context", "dialer", "listener", "pipe"])
def test_an_option_of_another_handle_is_an_error_that_says_whose_it_is(handles: dict[str, Any], kind: str) -> None:
    with pytest.raises(sp.BadOptionError, match=r"'ttl': TTL is an option of sockets of pair1"):
        handles[kind].ttl = 3
    with pytest.raises(sp.BadOptionError, match=r"'ttl': TTL is an option of sockets of pair1"):
        print(handles[kind].ttl)


def test_an_option_of_pipes_is_none_of_a_socket(handles: dict[str, Any]) -> None:
    with pytest.raises(sp.BadOptionError, match="LOCAL-ADDR is an option of every pipe"):
        print(handles["socket"].local_addr)


@pytest.mark.parametrize("name", ["subscribe", "unsubscribe"])
def test_a_method_is_not_assigned_to(name: str) -> None:
    with sp.Sub() as sub, sub.open_context() as context:
        for handle in (sub, context):
            with pytest.raises(sp.BadOptionError, match=rf"is a method: call {name}\(b'a'\) instead"):
                setattr(handle, name, b"a")
            assert callable(getattr(handle, name))


@pytest.mark.parametrize("kind", ["socket", "context", "dialer", "listener", "pipe"])
def test_a_handle_has_no_attributes_of_the_users(handles: dict[str, Any], kind: str) -> None:
    handle = handles[kind]
    with pytest.raises(AttributeError):
        handle.something = 1
    assert not hasattr(handle, "something")
    assert not hasattr(handle, "_something")


@pytest.mark.parametrize("kind", ["socket", "context", "dialer", "listener", "pipe"])
def test_options_of_other_handles_are_not_listed(handles: dict[str, Any], kind: str) -> None:
    handle = handles[kind]
    listed = dir(handle)
    assert ("ttl" in listed, "local_addr" in listed) == (kind == "socket", kind == "pipe")
    assert [name for name in listed if not hasattr(type(handle), name) and name[0] != "_"] == []
    assert type(handle).__getattribute__ is object.__getattribute__
    assert not hasattr(type(handle), "__getattr__"), "it makes every access slower"


def test_a_subclass_may_have_attributes_that_are_no_options() -> None:
    class Counting(sp.Req):
        count = 0

        def __init__(self) -> None:
            super().__init__()
            self.seen = 1

    with Counting() as socket:
        socket.count += 1
        assert (socket.count, socket.seen) == (1, 1)
        with pytest.raises(sp.BadOptionError, match="LOCAL-ADDR"):
            socket.local_addr = "x"  # type: ignore[attr-defined]

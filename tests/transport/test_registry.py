"""Which transport serves an address."""

from __future__ import annotations

import sys
import types

import pytest
from transport.support import ScriptedTransport

from spworkers.errors import BadAddrError, BadOptionError, BadTranError, BadValueError
from spworkers.transport import Transport, register, transport_for
from spworkers.transport.base import flag, seconds, whole
from spworkers.transport.registry import Registry, targets


@pytest.mark.parametrize("scheme", ["tcp", "tcp4", "tcp6", "tls+tcp6", "ipc", "unix", "abstract"])
def test_the_built_in_schemes(scheme: str) -> None:
    transport = transport_for(f"{scheme}://whatever")
    assert transport.scheme == scheme
    assert transport is transport_for(f"{scheme}://another")
    assert scheme in targets()
    assert scheme in repr(transport)


@pytest.mark.parametrize("address", ["TCP://127.0.0.1:1", "tpc://127.0.0.1:1", "tcp ://x:1"])
def test_unknown_schemes_name_the_nearest(address: str) -> None:
    with pytest.raises(BadTranError, match=r"nearest is tcp://"):
        transport_for(address)
    with pytest.raises(BadTranError, match=r"nearest is inproc://"):
        transport_for("inprc://x")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://x", "the nearest is ws://"),
        ("https://x", "the nearest is wss://"),
        ("zmq://x", "there are abstract, asgi, inproc, ipc, shm, tcp"),
        ("://x", "there are abstract"),
    ],
)
def test_unknown_schemes_that_resemble_none(address: str, words: str) -> None:
    with pytest.raises(BadTranError, match=words):
        transport_for(address)


@pytest.mark.parametrize("address", ["127.0.0.1:5555", "", "tcp:127.0.0.1:5555", "tcp:/x", "junk"])
def test_addresses_without_a_scheme(address: str) -> None:
    with pytest.raises(BadTranError, match=r"no scheme.*tcp://"):
        transport_for(address)


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of somebody else's with transports good and bad."""
    module = types.ModuleType("third_party")

    class Mine(ScriptedTransport):
        def __init__(self, scheme: str) -> None:
            super().__init__()
            self.scheme = scheme

    class Outer:
        Inner = Mine

    class Abstract(Transport):
        pass

    module.Mine, module.Outer, module.Abstract, module.NoTransport = Mine, Outer, Abstract, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party", module)
    return module


def test_a_transport_of_ones_own(third_party: types.ModuleType) -> None:
    registry = Registry()
    registry.register("mine", "third_party:Mine")
    registry.register("my+other", "third_party:Outer.Inner")
    assert registry.schemes == ("mine", "my+other")
    assert registry.targets == {"mine": "third_party:Mine", "my+other": "third_party:Outer.Inner"}
    assert type(registry.transport_for("mine://x")) is third_party.Mine
    assert registry.transport_for("my+other://x").scheme == "my+other"


def test_a_scheme_can_get_another_class(third_party: types.ModuleType) -> None:
    registry = Registry({"x": "third_party:Mine"})
    first = registry.transport_for("x://")
    registry.register("x", "third_party:Mine")
    assert registry.transport_for("x://") is not first


@pytest.mark.parametrize("target", ["third_party:None_", "no_such_module_at_all:X", "third_party:NoTransport"])
@pytest.mark.usefixtures("third_party")
def test_a_class_that_cannot_be_had(target: str) -> None:
    registry = Registry({"x": target})
    with pytest.raises(BadTranError, match=target):
        registry.transport_for("x://y")


@pytest.mark.usefixtures("third_party")
def test_a_class_that_cannot_be_made() -> None:
    with pytest.raises(BadTranError, match=r"Abstract\('x'\) failed.*abstract"):
        Registry({"x": "third_party:Abstract"}).transport_for("x://y")


@pytest.mark.parametrize("scheme", ["", "X", "a b", "a/b", "9p", None])
def test_malformed_schemes(scheme: str) -> None:
    with pytest.raises(BadValueError, match="scheme"):
        register(scheme, "module:Class")


@pytest.mark.parametrize(
    "target", ["", "module", "module:", ":Class", "module.Class", "a:b:c", "a b:C", ScriptedTransport]
)
def test_malformed_targets(target: str) -> None:
    with pytest.raises(BadValueError, match="module:Class"):
        register("mine", target)


def test_options_belong_to_transports_and_places() -> None:
    tcp, ipc, inproc = (transport_for(f"{scheme}://") for scheme in ("tcp", "ipc", "inproc"))
    for name in ("NO-DELAY", "KEEPALIVE", "KEEPALIVETIME", "MAX-RCV-SIZE"):
        tcp.check_option(name, "dialer")
        tcp.check_option(name, "listener")
        with pytest.raises(BadOptionError):
            inproc.check_option(name, "dialer")
        with pytest.raises(BadOptionError, match="none of its own"):
            inproc.check_option(name, "listener")
    ipc.check_option("UNIX-IPC-CHMOD", "listener")
    ipc.check_option("PEER-PID", "pipe")
    with pytest.raises(BadOptionError):
        ipc.check_option("UNIX-IPC-CHMOD", "dialer")
    with pytest.raises(BadOptionError):
        tcp.check_option("PEER-PID", "pipe")
    with pytest.raises(BadOptionError, match=r"did you mean NO-DELAY") as caught:
        tcp.check_option("NODELAY", "dialer")
    assert caught.value.option == "NODELAY"
    assert caught.value.nearest[0] == "NO-DELAY"
    with pytest.raises(BadOptionError, match="it has KEEPALIVE, KEEPALIVETIME"):
        tcp.check_option("???", "dialer")


def test_the_values_of_options() -> None:
    options = {"FLAG": False, "NONE": None, "TIME": 2, "MODE": 0}
    assert flag(options, "FLAG", True) is False
    assert flag(options, "NONE", True) is True
    assert flag(options, "MISSING", True) is True
    assert seconds(options, "TIME", 1.0) == 2.0
    assert seconds(options, "NONE", 1.0) == 0.0
    assert seconds(options, "MISSING", 1.0) == 1.0
    assert whole(options, "MODE") == 0
    assert whole(options, "NONE") is None
    assert whole(options, "MISSING") is None


def test_an_address_of_another_scheme_is_refused() -> None:
    with pytest.raises(BadAddrError, match="starts with tcp://"):
        transport_for("tcp://").parse("ipc://x")

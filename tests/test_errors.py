from __future__ import annotations

import errno
import json
import pickle
import socket
import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest

from spworkers import errors
from spworkers.errors import InternalError, PeerError, SPError, UsageError, from_name, from_os_error, to_wire

TREE = sorted(
    (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SPError)),
    key=lambda cls: cls.__name__,
)

# Reference, section 1.6, with mangos' constant strings.
MANGOS = {
    "BadAddrError": "invalid address",
    "BadHeaderError": "invalid header received",
    "BadVersionError": "invalid protocol version",
    "TooShortError": "message is too short",
    "TooLongError": "message is too long",
    "ClosedError": "object closed",
    "ConnRefusedError": "connection refused",
    "SendTimeoutError": "send time out",
    "RecvTimeoutError": "receive time out",
    "ProtoStateError": "incorrect protocol state",
    "ProtoOpError": "invalid operation for protocol",
    "BadTranError": "invalid or unsupported transport",
    "BadProtoError": "invalid or unsupported protocol",
    "BadOptionError": "invalid or unsupported option",
    "BadValueError": "invalid option value",
    "GarbledError": "message garbled",
    "AddrInUseError": "address in use",
    "BadPropertyError": "invalid property name",
    "TLSNoConfigError": "missing TLS configuration",
    "TLSNoCertError": "missing TLS certificates",
    "NotRawError": "socket not raw",
    "CanceledError": "operation canceled",
    "NoContextError": "protocol does not support contexts",
    "NoPeersError": "no connected peers",
}

BUILTINS = {
    "BadAddrError": ValueError,
    "BadOptionError": (ValueError, AttributeError),
    "BadValueError": ValueError,
    "ClosedError": OSError,
    "ConnRefusedError": ConnectionRefusedError,
    "SendTimeoutError": TimeoutError,
    "RecvTimeoutError": TimeoutError,
    "ConnTimeoutError": TimeoutError,
    "ConnResetError": ConnectionResetError,
    "AddrInUseError": OSError,
    "AccessDeniedError": PermissionError,
    "NoPeersError": ConnectionError,
    "BadArgumentsError": TypeError,
    "UnknownHandlerError": LookupError,
    "TaskTimeoutError": TimeoutError,
    "WorkerDiedError": RuntimeError,
    "StreamLostError": ConnectionError,
    "ShutdownError": RuntimeError,
    "ChannelClosedError": EOFError,
}

FULL: dict[str, tuple[Any, ...]] = {  # one of each class whose constructor takes more than a message
    "BadOptionError": ("no such option", "RECV-DEDLINE", ["RECV-DEADLINE"]),
    "RemoteError": ("ZeroDivisionError", "division by zero", "Traceback (most recent call last): ..."),
    "BadArgumentsError": ("b is no int", "add"),
    "UnknownHandlerError": ("no handler ad", "ad", ["add"]),
    "TaskTimeoutError": ("took too long", "f(1)", 2.5),
    "WorkerDiedError": ("killed by SIGKILL", "f(1)", 4711, -9),
    "QuarantinedError": ("killed 3 workers", "f(1)", 3),
}


def example(cls: type[SPError]) -> SPError:
    return cls(*FULL.get(cls.__name__, ("what was wrong",)))


def public(error: SPError) -> dict[str, object]:
    """Everything that a user can see of an error."""
    names = {*vars(error), "args", "message", "cause_text"} | ({"errno"} if isinstance(error, OSError) else set())
    return {name: getattr(error, name) for name in names}


class TestTree:
    @pytest.mark.parametrize(("name", "text"), MANGOS.items())
    def test_every_error_of_mangos_is_there_with_its_text(self, name: str, text: str) -> None:
        cls = getattr(errors, name)
        assert cls.summary == text
        assert str(cls()).startswith(text)

    @pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
    def test_derives_from_the_builtin_that_fits(self, name: str, builtin: type | tuple[type, ...]) -> None:
        wanted = builtin if isinstance(builtin, tuple) else (builtin,)
        assert all(issubclass(getattr(errors, name), cls) for cls in wanted)

    @pytest.mark.parametrize("cls", TREE)
    def test_has_exactly_one_culprit(self, cls: type[SPError]) -> None:
        culprits = [base for base in (UsageError, PeerError, InternalError) if issubclass(cls, base)]
        assert len(culprits) == (0 if cls is SPError else 1)

    @pytest.mark.parametrize("cls", TREE)
    def test_has_words_of_its_own(self, cls: type[SPError]) -> None:
        assert cls.__doc__
        assert str(cls())
        assert cls is SPError or "summary" in vars(cls), "a class without a summary of its own shows its parent's"

    def test_no_two_share_a_summary(self) -> None:
        summaries = [cls.summary for cls in TREE]
        assert len(set(summaries)) == len(summaries)

    def test_each_is_exported(self) -> None:
        assert {name for name in errors.__all__ if name.endswith("Error")} == {cls.__name__ for cls in TREE}

    def test_an_unknown_option_is_a_missing_attribute(self) -> None:
        class Handle:
            @property
            def survey_time(self) -> float:
                raise errors.BadOptionError("push has no option SURVEY-TIME", "SURVEY-TIME")

        assert not hasattr(Handle(), "survey_time")


class TestMessage:
    def test_str_is_the_message(self) -> None:
        assert str(errors.ClosedError("this socket is closed")) == "this socket is closed"

    def test_without_a_message_it_says_what_to_do(self) -> None:
        assert str(errors.NotRawError()) == "socket not raw: make it with raw=True"

    def test_repr_names_the_class(self) -> None:
        assert repr(errors.ClosedError("gone")) == "ClosedError('gone')"

    def test_remote_error(self) -> None:
        error = errors.RemoteError("ZeroDivisionError", "division by zero", "Traceback: in divide, line 3")
        assert (error.type, error.message) == ("ZeroDivisionError", "division by zero")
        assert str(error) == "ZeroDivisionError: division by zero"
        assert "in divide, line 3" in "".join(traceback.format_exception(error))


class TestPickle:
    @pytest.mark.parametrize("cls", TREE)
    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_keeps_everything(self, cls: type[SPError], protocol: int) -> None:
        error = example(cls)
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is cls
        assert str(again) == str(error)
        assert public(again) == public(error)

    @pytest.mark.parametrize("cls", TREE)
    def test_of_an_empty_one(self, cls: type[SPError]) -> None:
        again = pickle.loads(pickle.dumps(cls()))
        assert str(again) == str(cls())
        assert public(again) == public(cls())

    @pytest.mark.parametrize("cls", TREE)
    def test_keeps_the_cause(self, cls: type[SPError]) -> None:
        error = example(cls)
        error.__cause__ = KeyError("missing")
        again = pickle.loads(pickle.dumps(error))
        assert again.cause_text == error.cause_text == "KeyError: 'missing'"
        assert pickle.loads(pickle.dumps(again)).cause_text == error.cause_text

    def test_an_error_of_the_system_stays_one(self) -> None:
        error = from_os_error(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "dial tcp://x:1")
        again = pickle.loads(pickle.dumps(error))
        assert type(again.__cause__) is ConnectionRefusedError
        assert again.__cause__.errno == again.errno == errno.ECONNREFUSED

    def test_keeps_attributes_that_were_added(self) -> None:
        error = errors.ClosedError("gone")
        error.socket_name = "jobs"  # type: ignore[attr-defined]
        assert pickle.loads(pickle.dumps(error)).socket_name == "jobs"

    def test_a_subclass_of_the_users(self) -> None:
        assert type(pickle.loads(pickle.dumps(Mine("oops")))) is Mine


class Mine(errors.ProtoStateError):
    pass


class TestWire:
    @pytest.mark.parametrize("cls", TREE)
    def test_there_and_back(self, cls: type[SPError]) -> None:
        error = example(cls)
        name, args = to_wire(error)
        assert name == cls.__name__
        again = from_name(name, json.loads(json.dumps(args)))  # plain data only
        assert type(again) is cls
        assert str(again) == str(error)
        assert public(again) == public(error)

    def test_a_cause_travels(self) -> None:
        inner = from_os_error(OSError(errno.EADDRINUSE, "Address already in use"), "listen tcp://x:1")
        error = errors.IOProcessError("no I/O process")
        error.__cause__ = inner
        again = from_name(*json.loads(json.dumps(to_wire(error))))
        assert isinstance(again.__cause__, errors.AddrInUseError)
        assert isinstance(again.__cause__.__cause__, OSError)
        assert again.__cause__.__cause__.errno == errno.EADDRINUSE

    @pytest.mark.parametrize("cause", [socket.gaierror(-2, "Name or service not known"), ssl.SSLError(1, "bad record")])
    def test_causes_of_other_modules_keep_their_class(self, cause: OSError) -> None:
        again = from_name(*json.loads(json.dumps(to_wire(from_os_error(cause, "dial tcp://nowhere:1")))))
        assert type(again.__cause__) is type(cause)
        assert again.__cause__.args == cause.args

    def test_another_exception_is_an_internal_error(self) -> None:
        again = from_name(*to_wire(KeyError("x")))
        assert type(again) is InternalError
        assert "KeyError: 'x'" in str(again)

    def test_a_subclass_of_the_users_becomes_ours(self) -> None:
        again = from_name(*to_wire(Mine("oops")))
        assert type(again) is errors.ProtoStateError
        assert str(again) == "Mine: oops"

    def test_a_class_of_the_same_name_is_not_ours(self) -> None:
        class ClosedError(errors.ProtoStateError):
            pass

        assert to_wire(ClosedError("x"))[0] == "ProtoStateError"

    def test_an_unknown_name(self) -> None:
        error = from_name("NoSuchError", ["hello"])
        assert type(error) is InternalError
        assert "'NoSuchError'" in str(error)
        assert "hello" in str(error)

    @pytest.mark.parametrize("name", ["Exception", "KeyboardInterrupt", "SystemExit", "__init__", ""])
    def test_makes_nothing_but_our_errors(self, name: str) -> None:
        assert type(from_name(name, [])) is InternalError

    @pytest.mark.parametrize("args", [[1, 2, 3, 4, 5], ["m", "t", "not a number"], [None, None, []], [{}, {}, {}, {}]])
    def test_arguments_that_do_not_fit(self, args: list[object]) -> None:
        error = from_name("TaskTimeoutError", args)
        assert type(error) is InternalError
        assert "TaskTimeoutError" in str(error)

    @pytest.mark.parametrize("cause", [7, ["os"], ["sp", 3, 4], ["nothing"], ["os", "SSLError", "x", 1]])
    def test_a_cause_that_is_none(self, cause: object) -> None:
        assert from_name("ClosedError", ["gone", {"cause": cause}]).__cause__ is None


class TestFromOsError:
    @pytest.mark.parametrize(
        ("number", "doing", "name"),
        [
            (errno.ECONNREFUSED, "dial tcp://127.0.0.1:1", "ConnRefusedError"),
            (errno.ENOENT, "dial ipc:///tmp/none", "ConnRefusedError"),
            (errno.ENOENT, "listen ipc:///nowhere/x", "BadAddrError"),
            (errno.EADDRINUSE, "listen tcp://127.0.0.1:1", "AddrInUseError"),
            (errno.EADDRNOTAVAIL, "listen tcp://192.0.2.1:1", "BadAddrError"),
            (errno.ETIMEDOUT, "dial tcp://192.0.2.1:1", "ConnTimeoutError"),
            (errno.EACCES, "listen tcp://127.0.0.1:1", "AccessDeniedError"),
            (errno.ECONNRESET, "dial tcp://127.0.0.1:1", "ConnResetError"),
            (errno.EPIPE, "send", "ConnResetError"),
            (errno.EHOSTUNREACH, "dial tcp://192.0.2.1:1", "NetworkError"),
            (errno.ENETUNREACH, "dial tcp://192.0.2.1:1", "NetworkError"),
            (errno.EMFILE, "dial tcp://127.0.0.1:1", "ResourceError"),
            (errno.EDOM, "dial tcp://127.0.0.1:1", "NetworkError"),
        ],
    )
    def test_by_number(self, number: int, doing: str, name: str) -> None:
        cause = OSError(number, "the system's words")
        error = from_os_error(cause, doing)
        assert type(error).__name__ == name
        assert error.__cause__ is cause
        assert str(error).startswith(f"{doing}: the system's words")
        if isinstance(error, OSError):
            assert error.errno == number

    def test_a_host_that_does_not_exist(self) -> None:
        cause = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        error = from_os_error(cause, "dial tcp://nowhere.invalid:1")
        assert isinstance(error, errors.BadAddrError)
        assert "check the name, or with dial_asynch=True" in str(error)
        assert str(from_os_error(cause, "listen tcp://nowhere.invalid:1")).endswith("check the name")

    def test_tls(self) -> None:
        cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
        assert isinstance(from_os_error(cause, "dial tls+tcp://127.0.0.1:1"), errors.TLSError)

    def test_a_path_that_is_too_long(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError) as caught:
            sock.bind(f"{tmp_path}/{'x' * 200}")
        assert isinstance(from_os_error(caught.value, "listen ipc:///long"), errors.BadAddrError)

    @pytest.mark.parametrize(
        ("cause", "name"),
        [
            (TimeoutError(), "ConnTimeoutError"),
            (ConnectionRefusedError(), "ConnRefusedError"),
            (ConnectionResetError(), "ConnResetError"),
            (PermissionError(), "AccessDeniedError"),
            (OSError(), "NetworkError"),
            (OSError("Multiple exceptions: [Errno 101] unreachable, [Errno 111] refused"), "ConnRefusedError"),
            (OSError("Multiple exceptions: [Errno 101] unreachable, [Errno 113] no route"), "NetworkError"),
        ],
    )
    def test_without_a_number(self, cause: OSError, name: str) -> None:
        assert type(from_os_error(cause, "dial tcp://localhost:1")).__name__ == name

    def test_one_of_ours_stays_as_it_is(self) -> None:
        error = errors.ConnRefusedError("nobody there")
        assert from_os_error(error, "dial inproc://x") is error

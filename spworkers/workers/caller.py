"""What every client can do, whatever its calls travel by: the calling half of `Client` and of `App.client()`."""

from __future__ import annotations

import itertools
import math
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from spworkers._coerce import Seconds, seconds
from spworkers.closing import AsyncClosing
from spworkers.errors import BadOptionError, BadValueError, GarbledError, SerializationError
from spworkers.message import Message
from spworkers.workers import callformat
from spworkers.workers.annotations import UnknownShape, shape_of
from spworkers.workers.answer import Reply
from spworkers.workers.callwaiting import left_until
from spworkers.workers.handler import check_text
from spworkers.workers.quantities import check_count, check_flag
from spworkers.workers.runner import HANDLERS
from spworkers.workers.shapes import Mismatch, Shape
from spworkers.workers.stream import Stream

__all__ = ["Caller", "RemoteFunction", "deadline_of"]


def deadline_of(timeout: Seconds, default: float = math.inf) -> float:
    """The moment (of `time.monotonic`) at which a timeout ends.

    Args:
        timeout: seconds or timedelta; None: the default; math.inf: for ever.

    Raises:
        BadValueError: it is no time.
    """
    if timeout is None and default == math.inf:
        return default
    return time.monotonic() + (default if timeout is None else patience_of(timeout))


def patience_of(timeout: float | timedelta) -> float:
    """A timeout in seconds, not below 0.

    Raises:
        BadValueError: it is no time.
    """
    try:
        return max(seconds(timeout), 0.0)
    except ValueError as error:
        raise BadValueError(f"timeout {error}") from None


class RemoteFunction:
    """A handler over there, as an attribute of a client: calling it calls the handler, all keywords included."""

    def __init__(self, caller: Caller, name: str) -> None:
        self._caller = caller
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._caller._call(self.__name__, args, kwargs, None)

    def __getattr__(self, name: str) -> RemoteFunction:
        if name.startswith("_"):
            raise AttributeError(name)
        return RemoteFunction(self._caller, f"{self.__name__}.{name}")

    def __repr__(self) -> str:
        return f"<handler {self.__name__} of {self._caller!r}>"


def _shape_of_result(name: str, annotation: Any) -> Shape:
    check_text(name, "a handler's name")
    try:
        return shape_of(annotation)
    except (UnknownShape, NameError) as error:
        raise BadValueError(f"the result of {name}: {error}") from None


class Caller(AsyncClosing):
    """Calls handlers; subclasses carry the bytes.

    A subclass that names the types of results gets them: without that a dataclass or a model arrives as a dict, and a
    member of an enum as its value. `spworkers stubs` writes such subclasses.

    ```python
    class Maps(sp.Client, results={"locate": Point}): ...
    ```
    """

    _results: ClassVar[Mapping[str, Shape]] = MappingProxyType({})

    def __init_subclass__(cls, *, results: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Take the types of results.

        Args:
            results: by the handlers' names, the type of what each returns (of a generator handler: of each item).

        Raises:
            BadValueError: one of them is a type that no answer can carry.
        """
        super().__init_subclass__(**more)
        if results is not None:
            if not isinstance(results, Mapping):
                raise BadValueError(
                    f"results of {cls.__name__} is a {type(results).__name__}; it has to be a mapping of"
                    ' handlers\' names to types, such as {"locate": Point}'
                )
            cls._results = {**cls._results, **{name: _shape_of_result(name, each) for name, each in results.items()}}

    def __init__(self, timeout: Seconds = None) -> None:
        self._patience = math.inf if timeout is None else patience_of(timeout)
        # Ids begin anywhere in 64 bits and count up: two clients of one server do not meet, and a server can tell a
        # repeated request from a new one.
        self._ids = itertools.count(int.from_bytes(os.urandom(8), "big"))
        self._streams: dict[int, int] = {}  # those that are open, by their calls' ids: the pipe by which they come

    if not TYPE_CHECKING:  # a type checker would take it to mean that there is any attribute

        def __setattr__(self, name: str, value: Any) -> None:
            kind = type(self)
            if name[:1] != "_" and kind.__module__.partition(".")[0] == "spworkers":  # a user's own class may have more
                raise BadOptionError(
                    f"{name} of a {kind.__name__} cannot be set: what it can be told is told when it is made", name
                )
            object.__setattr__(self, name, value)

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"{self!r} belongs to this process and can be neither copied nor pickled: another process makes its own"
        )

    # --- the ways to call

    def call(self, name: str, /, *args: Any, timeout: Seconds = None, **kwargs: Any) -> Any:
        """Call a handler and wait for what it returns; of a generator handler, a `Stream`.

        Args:
            name: the handler's name.
            args, kwargs: its arguments. `client.name(timeout=...)` gives the handler a keyword `timeout` of its own.
            timeout: seconds to wait for the answer; None: the client's timeout.

        Raises:
            RemoteError: the handler raised an exception.
            BadArgumentsError: the arguments do not fit the handler; it was not called.
            UnknownHandlerError: there is no such handler.
            BusyError: the server (of several, each) has more requests waiting than it takes.
            WorkerDiedError, QuarantinedError: the call killed its workers.
            TaskTimeoutError: the handler ran past its time limit.
            RecvTimeoutError: no answer came in time.
            ConnResetError: each connection by which it was sent was lost at once, five times in a row: it is longer
                than the server's MAX-RCV-SIZE, most often.
            SerializationError: an argument cannot be sent.
            GarbledError: the answer is none of the call format, or no value of the type that this class names for it.
            ClosedError: the client is closed.
        """
        return self._call(name, args, kwargs, timeout)

    async def acall(self, name: str, /, *args: Any, timeout: Seconds = None, **kwargs: Any) -> Any:
        """As `call`, for asyncio and trio. Cancelling it gives the call up; the client stays usable."""
        deadline = deadline_of(timeout, self._patience)
        call_id, payload = self._encode(name, args, kwargs, deadline)
        reply = await self._aexchange(payload, deadline, name, call_id)
        return self._result(reply, name, call_id, timeout)

    def submit(self, name: str, /, *args: Any, timeout: Seconds = None, **kwargs: Any) -> Future[Any]:
        """As `call`, without waiting for the answer: the result, or the error, is the future's; `cancel()` gives the
        call up. It waits for a place while as many calls as the client may have (`in_flight`) are on their way.
        """
        deadline = deadline_of(timeout, self._patience)
        call_id, payload = self._encode(name, args, kwargs, deadline)
        return self._submit(payload, deadline, name, lambda reply: self._result(reply, name, call_id, timeout), call_id)

    def map(
        self,
        name: str,
        /,
        *iterables: Iterable[Any],
        timeout: Seconds = None,
        in_flight: int | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[Any]:
        """Call a handler with the items of the iterables, as the built-in `map` does, many calls on their way at once.

        The quickest way to have many calls answered. The first are sent at once, the others as results are taken: the
        iterables may be endless. Results come in the order of the calls.

        Args:
            name: the handler's name.
            iterables: each gives an argument of every call; ends with the shortest.
            timeout: seconds that each call waits for its answer; None: the client's timeout.
            in_flight: calls on their way at most; None: as many as the client may have.
            return_exceptions: give back what a call ends with as its result, and go on, unless the client was closed.

        Returns:
            An iterator, whose `close()` gives up what has no answer yet; so does its end in an exception.

        Raises:
            BadValueError: there is no iterable, or another argument is wrong.
            As `call`, from the iteration.
        """
        check_text(name, "a handler's name")
        if not iterables:
            raise BadValueError(f"map({name!r}) wants at least one iterable, of the arguments")
        deadline_of(timeout)
        window = 0 if in_flight is None else check_count(in_flight, "in_flight", least=1)
        for each in iterables:
            if not isinstance(each, Iterable) and not hasattr(each, "__getitem__"):
                raise BadValueError(f"map({name!r}) wants iterables, of the arguments; {each!r:.80} is none")
        check_flag(return_exceptions, "return_exceptions")
        items = zip(*iterables)  # noqa: B905  # the shortest ends it
        return self._map(name, items, timeout, window, return_exceptions)

    def stream(self, name: str, /, *args: Any, timeout: Seconds = None, **kwargs: Any) -> Stream[Any]:
        """The items of a generator handler, for `for` and `async for`; it is called when the first one is wanted.

        Args:
            timeout: seconds to wait for each part; None: the client's timeout.

        Raises:
            As `call`, from the iteration.
        """
        check_text(name, "a handler's name")
        deadline_of(timeout)
        return Stream(
            self,
            name,
            lambda: self._encode(name, args, kwargs, deadline_of(timeout, self._patience)),
            lambda: deadline_of(timeout, self._patience),
        )

    def __getattr__(self, name: str) -> RemoteFunction:
        if name.startswith("_"):  # and not Python's own questions: copy, pickle, a notebook's display
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}; call a handler of that name by call({name!r})"
            )
        return RemoteFunction(self, name)

    def handlers(self, timeout: Seconds = None) -> list[dict[str, str]]:
        """What is served: for every handler its `name`, `signature` and `doc`.

        Raises:
            As `call`.
        """
        answer: list[dict[str, str]] = self._call(HANDLERS, (), {}, timeout)
        return answer

    def raw(self, body: bytes, timeout: Seconds = None) -> bytes:
        """Send bytes, or another buffer, to the raw handler, and wait for its bytes.

        Raises:
            BadValueError: it is no buffer.
            RecvTimeoutError: no answer came in time.
            ClosedError: the client is closed.
        """
        return self._exchange(bytes(Message(body).body), deadline_of(timeout, self._patience), "raw request").body

    # --- what it takes

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: Seconds) -> Any:
        deadline = deadline_of(timeout, self._patience)
        call_id, payload = self._encode(name, args, kwargs, deadline)
        return self._result(self._exchange(payload, deadline, name, call_id), name, call_id, timeout)

    def _map(
        self, name: str, items: Iterator[tuple[Any, ...]], timeout: Seconds, window: int, return_exceptions: bool
    ) -> Iterator[Any]:
        """One call after the other.

        Args:
            window: calls on their way at most; 0: as many as may be.
        """
        for args in items:
            try:
                result = self._call(name, args, {}, timeout)
            except Exception as error:
                if not return_exceptions:
                    raise
                result = error
            yield result

    def _result(self, reply: Reply, name: str, call_id: int, timeout: Seconds) -> Any:
        value = callformat.decode_answer(reply.body, name, call_id)
        return self._result_of(value, name, call_id, reply.pipe, timeout)

    def _result_of(self, value: Any, name: str, call_id: int, pipe: int, timeout: Seconds) -> Any:
        """What is made of the value of an answer that came by this pipe."""
        if isinstance(value, callformat.Part):
            return self.stream(name, timeout=timeout)._opened(call_id, value, pipe)
        return self._typed(name, value) if self._results else value

    def _typed(self, name: str, value: Any) -> Any:
        """A result, or an item of a stream, as the type that this class names for it."""
        shape = self._results.get(name)
        if shape is None:
            return value
        try:
            return shape.fit(value, False)
        except Mismatch as mismatch:
            raise GarbledError(f"{name}() answered with another type: its result{mismatch.path}: {mismatch}") from None

    def _encode(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], deadline: float) -> tuple[int, bytes]:
        if type(name) is not str or not name:
            check_text(name, "a handler's name")
        call_id = next(self._ids) & 0xFFFF_FFFF_FFFF_FFFF
        return call_id, callformat.encode_call(call_id, name, args, kwargs, left_until(deadline))

    @abstractmethod
    def _exchange(self, payload: bytes, deadline: float, what: str, call_id: int = 0, pipe: int = 0) -> Reply:
        """Send a request and wait for its answer.

        Args:
            what: names it in errors.
            call_id: what to give up, should nobody wait for the answer any more; 0: nothing.
            pipe: by which it has to go; 0: any.

        Raises:
            CanceledError: that pipe is gone.
        """

    @abstractmethod
    async def _aexchange(self, payload: bytes, deadline: float, what: str, call_id: int = 0, pipe: int = 0) -> Reply:
        """The same for event loops."""

    @abstractmethod
    def _submit(
        self, payload: bytes, deadline: float, what: str, read: Callable[[Reply], Any], call_id: int
    ) -> Future[Any]:
        """The same with a future, whose result `read` makes from the answer."""

    @abstractmethod
    def _give_up_stream(self, call_id: int, pipe: int) -> None:
        """Tell the server of a stream that nobody wants more of it; it does not wait."""

    @abstractmethod
    def close(self) -> None:
        """End it; calls in flight fail with ClosedError."""

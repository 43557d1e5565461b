"""Client: calls handlers over a REQ socket, many at a time, from threads and tasks alike."""

from __future__ import annotations

import asyncio
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, NoReturn

from anyio.lowlevel import RunVar

from spworkers._atexit import at_exit
from spworkers._coerce import Seconds
from spworkers.errors import (
    BadOptionError,
    BadValueError,
    CanceledError,
    ClosedError,
    ConnResetError,
    ForkedError,
    NoPeersError,
    RecvTimeoutError,
    SendTimeoutError,
    SPError,
)
from spworkers.ring import MAX_WINDOW
from spworkers.socket import addresses_of
from spworkers.workers.answer import Reply
from spworkers.workers.caller import Caller, patience_of
from spworkers.workers.callformat import Part, decode_answer
from spworkers.workers.callline import CallLine
from spworkers.workers.callmap import CallMap
from spworkers.workers.callsocket import CallSocket
from spworkers.workers.calltasks import acall, end, place
from spworkers.workers.callwaiting import left_until
from spworkers.workers.handler import check_text
from spworkers.workers.manycalls import ManyCalls
from spworkers.workers.quantities import check_count
from spworkers.workers.quickcalls import Opened, QuickCalls, Unanswered
from spworkers.workers.settings import misspelt
from spworkers.workers.slots import NoPlace, Places, Slots

__all__ = ["Client"]

IN_FLIGHT = 128
"""Calls at once, by default: as many as a queue of mangos holds."""


_FAREWELL: Final = 0.2  # seconds, in which servers can be told that nobody waits for them any more


_REFUSED: Final = {
    "raw": "its socket is a REQ that is not raw",
    "dial": "its addresses are its first argument",
    "listen": "it calls who listens; who dials in to it would get no calls of its own choosing",
}
"""What Req takes, and a client has no use for."""

_open: Final[weakref.WeakSet[Client]] = weakref.WeakSet()


class Client(Caller):
    """Calls the handlers of an App that is served somewhere.

    ```python
    with sp.Client("tcp://127.0.0.1:5555") as calc:
        calc.add(2, 3)                        # 5
        calc.call("add", 2, 3, timeout=1.0)
        future = calc.submit("add", 2, 3)
        await calc.acall("add", 2, 3)
        list(calc.map("add", range(5), range(5)))    # many on their way at once
    ```

    One client may be shared by threads and tasks. Each call is a REQ conversation of its own: a server that goes away
    is replaced by another of the addresses, and what it had not answered goes there; so does what it is too busy for.

    Args:
        addresses: where the App is served; with several, calls go round among them.
        timeout: seconds that a call waits if it does not say itself; None: for ever.
        in_flight: calls at once, 32,768 at most; one more waits until one of them has ended.
        name: what to call its socket in statistics.
        options: any option of `Req` by its keyword. `dial_asynch` is true for several addresses: one may be down.
            `max_rcv_size` is 0 here, no limit: an answer that is refused would be asked for again and again.

    Raises:
        BadOptionError, BadValueError, BadAddrError, BadTranError: an argument is wrong.
        ConnRefusedError: nobody listens at the only address.
    """

    def __init__(
        self,
        addresses: str | Iterable[str],
        *,
        timeout: Seconds = None,
        in_flight: int = IN_FLIGHT,
        name: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(timeout)
        for option, why in _REFUSED.items():
            if option in options:
                raise BadOptionError(f"a Client takes no {option}=: {why}", option)
        self._addresses = addresses_of(addresses, "a Client")
        if not self._addresses:
            raise BadValueError("a Client needs an address: where is the App served?")
        self._limit = check_count(in_flight, "in_flight", 1, MAX_WINDOW)
        self._slots = Slots(self._limit)
        self._places: RunVar[Places] = RunVar("spworkers-client-places")  # an event loop cannot wait in a thread's
        self._closed = False
        options.setdefault("dial_asynch", len(self._addresses) > 1)
        options.setdefault("max_rcv_size", 0)
        try:
            self._req = CallSocket(self._limit, dial=self._addresses, name=name, **options)
        except BadOptionError as error:
            raise misspelt(error, "a Client", ("timeout", "in_flight", "name")) from None
        self._line = CallLine(self._req, len(self._addresses), self._slots)
        self._quick = QuickCalls(self._ids, self._slots, self._line, self._patience, not self._results)
        _open.add(self)

    # --- sending and receiving

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: Seconds) -> Any:
        """As a `Caller` does it, step by step; but this is most of what a client does."""
        if type(name) is not str or not name:
            check_text(name, "a handler's name")
        quick = self._quick  # the only look-up: each of ours is two, for the sake of `__getattr__`
        patience = quick.patience if timeout is None else patience_of(timeout)
        try:
            result = quick.call(name, args, kwargs, patience)
        except NoPlace:
            raise self._no_slot(name) from None
        except Unanswered as unanswered:
            error, size = unanswered.error, unanswered.size
        else:
            return result if quick.plain and type(result) is not Opened else self._made(result, name, timeout)
        try:
            self._raise(error, name, size, patience)
        finally:
            del error  # which has this frame in its traceback

    def _made(self, result: Any, name: str, timeout: Seconds) -> Any:
        """What is made of a result: a stream, or what it is the type of."""
        if isinstance(result, Opened):
            return self.stream(name, timeout=timeout)._opened(result.call_id, result.part, result.pipe)
        return self._typed(name, result)

    def _map(
        self, name: str, items: Iterator[tuple[Any, ...]], timeout: Seconds, window: int, return_exceptions: bool
    ) -> Iterator[Any]:
        self._check_open(name)
        patience = self._patience if timeout is None else patience_of(timeout)
        window = min(window, self._limit) if window else self._limit
        many = ManyCalls(self._quick, self._line, self._slots, name, items, patience, window)
        return CallMap(self, many, name, timeout, return_exceptions)

    async def acall(self, name: str, /, *args: Any, timeout: Seconds = None, **kwargs: Any) -> Any:
        """As `call`, for asyncio and trio. Cancelling it gives the call up; the client stays usable."""
        if type(name) is not str or not name:
            check_text(name, "a handler's name")
        quick = self._quick  # the only look-up, as in `_call`
        patience = quick.patience if timeout is None else patience_of(timeout)
        waiting = quick.begin_task(name, args, kwargs, patience)
        if waiting is None:
            return await super().acall(name, *args, timeout=timeout, **kwargs)
        try:
            await waiting
            if not waiting.over:
                await end(self._line, waiting)
        except BaseException:
            self._line.forsake(waiting)
            raise
        finally:
            quick.end_task(waiting)
        reply = waiting.reply
        if reply is None:
            assert waiting.error is not None
            self._raise(waiting.error, name, waiting.size, patience)
        value = decode_answer(reply.body, name, waiting.call_id)
        if quick.plain and type(value) is not Part:
            return value
        return self._result_of(value, name, waiting.call_id, reply.pipe, timeout)

    def _no_slot(self, what: str) -> RecvTimeoutError:
        self._check_usable(what)
        return RecvTimeoutError(
            f"{what}(): {self._limit} calls were in flight until its time was over; raise in_flight"
        )

    def _exchange(self, payload: bytes, deadline: float, what: str, call_id: int = 0, pipe: int = 0) -> Reply:
        if self._closed:
            self._check_open(what)
        patience = left_until(deadline)
        if not self._line.take_place(deadline):
            raise self._no_slot(what)
        try:
            return self._line.call(payload, deadline, call_id, pipe)
        except SPError as error:
            self._raise(error, what, len(payload), patience)
        finally:
            self._slots.give()

    def _places_of_tasks(self) -> Places:
        """Those of this event loop."""
        places = self._places.get(None)
        if places is None:
            places = Places(self._limit)
            self._places.set(places)
        self._quick.in_loop(asyncio._get_running_loop(), places)
        return places

    async def _aexchange(self, payload: bytes, deadline: float, what: str, call_id: int = 0, pipe: int = 0) -> Reply:
        if self._closed:
            self._check_open(what)
        places, patience = self._places_of_tasks(), left_until(deadline)
        if not await place(places, patience):
            raise self._no_slot(what)
        try:
            return await acall(self._line, payload, deadline, call_id, pipe)
        except SPError as error:
            self._raise(error, what, len(payload), patience)
        finally:
            places.give()

    def _submit(
        self, payload: bytes, deadline: float, what: str, read: Callable[[Reply], Any], call_id: int
    ) -> Future[Any]:
        self._check_open(what)
        patience = left_until(deadline)

        def explain(error: BaseException) -> BaseException:
            return self._explained(error, what, len(payload), patience)

        try:
            return self._line.submit(what, payload, deadline, call_id, read, explain)
        except NoPlace:
            raise self._no_slot(what) from None
        except SPError as error:
            self._raise(error, what, len(payload), patience)

    def _give_up_stream(self, call_id: int, pipe: int) -> None:
        if self._closed or self._line.port.pid != os.getpid():  # in a forked child it is its parent's
            return
        if not self._line.end_call(call_id) and pipe:
            self._line.give_up_stream(call_id, pipe)

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise ClosedError(f"{what}(): the client of {', '.join(self._addresses)} is closed")

    def _check_usable(self, what: str) -> None:
        """Raise if it is closed, if the program ends, or if it belongs to the process that has forked us."""
        self._check_open(what)
        try:
            self._req._port.check_open()
        except SPError as error:
            self._raise(error, what, 0, 0.0)

    def _raise(self, error: BaseException, what: str, size: int, patience: float) -> NoReturn:
        raise self._explained(error, what, size, patience)

    def _explained(self, error: BaseException, what: str, size: int, patience: float) -> BaseException:
        """An error in a caller's words: not which socket, but which call and which server.

        Args:
            what: the handler's name.
            size: of the call, in bytes.
            patience: its timeout, in seconds.
        """
        where = ", ".join(self._addresses)
        within = f"within its timeout of {round(patience, 3):g} s"
        if isinstance(error, SendTimeoutError):
            told: SPError = RecvTimeoutError(f"{what}(): no server at {where} took the call {within}")
        elif isinstance(error, RecvTimeoutError):
            told = RecvTimeoutError(f"{what}(): no answer from {where} {within}")
        elif isinstance(error, ConnResetError):
            told = ConnResetError(
                f"{what}(): the connection to {where} was lost each time that this call of {size:,} bytes was sent: a"
                " server closes it when a call is longer than its MAX-RCV-SIZE (max_rcv_size=)"
            )
        elif isinstance(error, ForkedError):
            owner = self._req._port.pid
            told = ForkedError(
                f"{what}(): the client of {where} is process {owner}'s: a forked child makes one of its own"
            )
        elif isinstance(error, ClosedError):
            told = ClosedError(f"{what}(): the client of {where} was closed meanwhile")
        elif isinstance(error, (CanceledError, NoPeersError)):
            told = type(error)(f"{what}(): no answer from {where}: {error}")
        else:
            return error
        told.__cause__ = error
        return told

    # --- life

    def close(self) -> None:
        """Close the connection; calls in flight fail with ClosedError, and are canceled where they run, as are streams.

        A second time, nothing happens. The program's end does it too.
        """
        if self._closed:
            return
        self._closed = self._quick.closed = True
        told = self._line.close(dict(self._streams))
        self._streams.clear()
        try:
            self._req.close(linger=_FAREWELL if told else 0)  # whoever wants an answer has waited for it
        except SPError:
            return  # in a forked child, where it is not ours

    def __del__(self) -> None:
        req = getattr(self, "_req", None)
        if req is not None and not self._closed and not req._port.closed:  # else the program ends, or forked us
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        if self._closed:
            return f"<Client of {', '.join(self._addresses)}: closed>"
        return f"<Client of {', '.join(self._addresses)}: {len(self._line.collector)} submitted calls in flight>"


@at_exit
def _close_all() -> None:
    """The program ends, by Ctrl-C perhaps: servers hear of what nobody waits for any more."""
    for client in list(_open):
        if client._line.port.pid == os.getpid():  # in a forked child they are its parent's
            client.close()

"""Server: an App that is being served. It owns a REP socket and the context pool on it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from types import FrameType
from typing import Any, Final

from spworkers._coerce import Seconds
from spworkers.closing import Closing
from spworkers.ending import End
from spworkers.errors import BadOptionError, BadValueError, ClosedError, ProtoStateError, RemoteError, SPError
from spworkers.socket import Socket, addresses_of
from spworkers.sockets import Pull, Rep, Respondent, Sub
from spworkers.waiting import run
from spworkers.workers.app import App, Part
from spworkers.workers.caller import deadline_of
from spworkers.workers.callwaiting import left_until
from spworkers.workers.contextpool import DRAIN, ContextPool
from spworkers.workers.group import WorkerInfo
from spworkers.workers.lending import crew_text
from spworkers.workers.prometheus import exposition
from spworkers.workers.runner import HEALTH
from spworkers.workers.settings import NAMES, drain_of, misspelt

__all__ = ["LARGEST_REQUEST", "Server"]

_log: Final = logging.getLogger("spworkers.workers")

LARGEST_REQUEST: Final = 64 << 20
"""MAX-RCV-SIZE of a server, by default: arguments are larger than the messages that the sockets' 1 MiB is for."""


ARGUMENTS: Final = ("listen", "dial", "workers", "executor", "block", "drain", *NAMES)
"""What `App.serve` takes beside the options of its socket."""


class Server(Closing):
    """What `App.serve` gives.

    Close it, or use it in a `with` block. One that is only forgotten goes on serving until the program ends; a
    ResourceWarning says so.

    Args:
        app: whose handlers answer.
        listen: an address, or several, for the handlers; the sockets of respondents, consumers and subscribers have
            theirs from their decorators.
        dial: likewise; of brokers (a `device` whose other socket clients dial), say.
        workers: how many processes; None: as many as there are processors for us.
        executor: any `concurrent.futures.Executor`, in whose workers the handlers run; it stays its user's.
            Leave `workers` out then, if it says itself how many it has.
        options: how requests are run, as `Settings` has it (`timeout`, `retries`, `backlog` …); and any option of `Rep`
            by its keyword, `tls_config` for instance. `max_rcv_size` is 64 MiB here: a client whose request is longer
            loses its connection.

    Raises:
        BadOptionError, BadValueError, BadAddrError, BadTranError: an argument is wrong.
        AddrInUseError: somebody listens at the address already.
        UnsupportedOptionError: the executor cannot do what an option or a handler asks for.
        RemoteError, WorkerDiedError: a worker could not start.
        SerializationError: the app can neither be imported by the workers nor be sent to them.
    """

    def __init__(
        self,
        app: App,
        listen: str | Iterable[str] = (),
        *,
        dial: str | Iterable[str] = (),
        workers: int | None = None,
        executor: Executor | None = None,
        **options: Any,
    ) -> None:
        if not app.handlers and app.raw_handler is None and not app.parts:
            raise BadValueError(f"{app!r} has no handler to serve: decorate a function with @app.handler or @app.raw")
        listening, dialling = addresses_of(listen, "listen"), addresses_of(dial, "dial")
        if not (listening or dialling) and (app.handlers or app.raw_handler is not None):
            raise BadValueError(
                f"{app!r} would be served nowhere: give serve() an address, such as 'tcp://127.0.0.1:5555', or dial="
            )
        self.app = app
        self._executor = executor
        self._ended = End()
        self._reloads = 0
        self._reload_drain: Seconds = None
        self._reload_lock = threading.RLock()  # a signal's handler takes it too
        self._inside = ""  # where `healthy` asks
        if "name" in options:
            raise BadOptionError(f"serve() takes no name=: the server has its App's, {app.name}", "name")
        options.setdefault("max_rcv_size", LARGEST_REQUEST)
        self._parts: list[tuple[Socket, ContextPool]] = []
        settings = {name: options.pop(name) for name in NAMES if name in options}
        try:
            self._rep = Rep(name=app.name, **options)
        except BadOptionError as error:
            raise misspelt(error, app.name, ARGUMENTS) from None
        try:
            only_parts = not app.handlers and app.raw_handler is None
            self._pool = ContextPool(
                self._rep, app, 1 if only_parts else workers, executor=None if only_parts else executor, **settings
            )
            try:
                for name, part in app.parts.items():
                    self._parts.append(_start_part(app, name, part, workers, {"executor": executor, **settings}))
                # Last of all: who can connect is answered.
                for address in listening:
                    self._rep.listen(address)
                for address in dialling:
                    self._rep.dial(address)
            except BaseException:
                self._pool.close(0)
                self._close_parts(0)
                raise
        except BaseException:
            self._rep.close(linger=0)
            raise

    @property
    def addresses(self) -> list[str]:
        """Where it listens: bound addresses, with the port that the system chose for port 0."""
        return [each.address for each in self._rep.listeners if each.address != self._inside]

    @property
    def address(self) -> str:
        """The first of them.

        Raises:
            ProtoStateError: it listens nowhere: it only dials, or all of the app's functions have their own sockets.
            ClosedError: the server is closed.
        """
        self._check_open()
        addresses = self.addresses
        if not addresses:
            raise ProtoStateError(f"server {self.app.name} listens nowhere: {self._instead()}")
        return addresses[0]

    def _instead(self) -> str:
        """Where a server is that listens nowhere."""
        if self.dials:
            return f"it dials {', '.join(self.dials)} (`dials`)"
        return (
            "its respondents, consumers and subscribers have sockets of their own, with the addresses they were given"
        )

    @property
    def dials(self) -> list[str]:
        """Whom it dials in to."""
        return [each.address for each in self._rep.dialers]

    @property
    def workers(self) -> list[WorkerInfo]:
        """Each worker as it is now: name, pid, state, how many requests it has answered."""
        return [*self._pool.workers, *(worker for _, pool in self._parts for worker in pool.workers)]

    @property
    def answered(self) -> int:
        """Requests answered so far, and messages dealt with."""
        return sum(worker.answered for worker in self.workers)

    def stats(self) -> dict[str, Any]:
        """Messages, connections, every drop by cause, and the workers.

        Returns:
            Those of the handlers; in `parts` those of each respondent, consumer and subscriber by its name.

        Raises:
            ClosedError: the server is closed.
        """
        self._check_open()
        return {**self._pool.stats(), "parts": {pool.part: pool.stats() for _, pool in self._parts}}

    def metrics(self) -> str:
        """What is counted, in Prometheus' text format; of each handler too, if the setting `metrics` is on.

        Raises:
            ClosedError: the server is closed.
        """
        self._check_open()
        pools = [self._pool, *(pool for _, pool in self._parts)]
        return exposition(self.app.name, [pool.measured() for pool in pools])

    def healthy(self, timeout: Seconds = 1.0) -> bool:
        """Whether a worker answers within this time; asked over a connection inside of this process.

        Raises:
            BadValueError: `timeout` is no time, or less than 0.
        """
        from spworkers.workers.client import Client

        drain_of(timeout, "timeout")
        try:
            with self._reload_lock:
                if not self._inside:
                    self._inside = f"inproc://spworkers-{os.getpid()}-{id(self):x}"
                    self._rep.listen(self._inside)
            with Client(self._inside, timeout=timeout) as client:
                return bool(client.call(HEALTH)["status"] == "ok")
        except SPError:
            return False

    def restart(self, drain: Seconds = None, timeout: Seconds = None) -> None:
        """Replace the workers one after another by processes with new code, as SIGHUP does. No request fails of that.

        Args:
            drain: seconds that each worker gets to finish what it has, before it is killed; None: as many as it takes.
            timeout: seconds that each successor may take to start; None: for ever.

        Raises:
            RemoteError, WorkerDiedError, RecvTimeoutError: a successor could not start; the others go on as before.
            UnsupportedOptionError: they are an executor's.
            ClosedError: the server is closed.
            BadValueError: `drain` or `timeout` is no time, or less than 0.
        """
        self._check_open()
        for end in self._replace(drain, timeout):
            end.join()

    def _replace(self, drain: Seconds, timeout: Seconds = None) -> list[threading.Thread]:
        """`restart`; the threads end with the workers that were replaced."""
        pools = [self._pool, *(pool for _, pool in self._parts)]
        return [end for pool in pools for end in pool.replace(drain, timeout)]

    def reload(self, drain: Seconds = None) -> None:
        """As `restart`, in a thread of its own; a failure is logged. What comes while it goes on is done after it.

        It does not wait for workers that have much to finish.

        Args:
            drain: as of `restart`.

        Raises:
            ClosedError: the server is closed.
            BadValueError: `drain` is no time, or less than 0.
        """
        drain_of(drain, "drain")
        self._check_open()
        self._hang_up(drain)

    def _check_open(self) -> None:
        if self._ended.is_set:
            raise ClosedError(f"server {self.app.name} is closed")

    def _hang_up(self, drain: Seconds = None) -> None:
        """SIGHUP has come; or `reload` was called."""
        with self._reload_lock:
            self._reloads += 1
            self._reload_drain = drain
            if self._reloads == 1 and not self._ended.is_set:
                threading.Thread(target=self._reload, name="spworkers-restart", daemon=True).start()

    def _reload(self) -> None:
        while True:
            with self._reload_lock:
                wanted, drain = self._reloads, self._reload_drain
            try:
                self._replace(drain)
                _log.info("%s: the workers were replaced", self.app.name)
            except RemoteError as error:
                _log.error("%s: the workers go on as they are: %s\n%s", self.app.name, error, error.traceback)
            except SPError as error:
                if not self._ended.is_set:
                    _log.error("%s: the workers go on as they are: %s", self.app.name, error)
            with self._reload_lock:
                if self._reloads == wanted or self._ended.is_set:
                    self._reloads = 0
                    return
                self._reloads = 1

    def wait(self, begun: Callable[[], object] | None = None) -> None:
        """Wait until the server is closed, by another thread or by SIGINT or SIGTERM.

        In the main thread these two signals end the wait, and nothing else; close the server then. A second one
        interrupts that too (KeyboardInterrupt). SIGHUP has the workers replaced one after another.

        Args:
            begun: called once signals do that, to tell others that they may send them.

        Raises:
            BadValueError: `begun` cannot be called.
        """
        if begun is not None and not callable(begun):
            raise BadValueError(f"wait() has no timeout; begun is a function to call when it waits, not {begun!r:.80}")
        with _signals_to(self._ended, self._hang_up):
            if begun is not None:
                begun()
            run(self._ended.steps(), self._ended.sleepers)

    def close(self, drain: Seconds = DRAIN) -> None:
        """Answer the requests at hand, then end the workers and the socket. A second time, nothing happens.

        Args:
            drain: seconds that those requests get; 0: none. New ones are answered with BusyError meanwhile.

        Raises:
            BadValueError: that is no time, or less than 0.
        """
        deadline = deadline_of(drain_of(drain, "drain"))
        self._ended.set()
        self._pool.close(drain)
        self._close_parts(left_until(deadline))
        with contextlib.suppress(SPError):  # closed before
            self._rep.close()

    def _close_parts(self, drain: Seconds) -> None:
        for socket, pool in self._parts:
            pool.close(drain)
            with contextlib.suppress(SPError):  # closed before
                socket.close()
        self._parts.clear()

    def __del__(self) -> None:
        pool = getattr(self, "_pool", None)
        if pool is not None and not pool._closed and not self._rep._port.closed:  # else the program ends, or forked us
            words = f"{self!r} was not closed, and goes on until the program ends"
            warnings.warn(words, ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        where = ", ".join([*self.addresses, *self.dials]) if not self._ended.is_set else "closed"
        crew = crew_text(len(self.workers), self._executor)
        return f"<Server {self.app.name}: {where}, {crew}, {self.answered} answered>"


_SOCKETS: Final[dict[str, type[Socket]]] = {"respondent": Respondent, "consumer": Pull, "subscriber": Sub}


def _start_part(
    app: App, name: str, part: Part, workers: int | None, settings: dict[str, Any]
) -> tuple[Socket, ContextPool]:
    socket: Any = _SOCKETS[part.handler.kind](name=f"{app.name}.{name}", **part.options)
    try:
        count = part.workers if part.workers is not None else workers
        pool = ContextPool(socket, app, count, name=f"{app.name}.{name}", part=name, **settings)
        try:
            for address in [part.listen] if isinstance(part.listen, str) else part.listen:
                socket.listen(address)
            for address in [part.dial] if isinstance(part.dial, str) else part.dial:
                socket.new_dialer(address, dial_asynch=True).dial()  # who is dialled may start later
        except BaseException:
            pool.close(0)
            raise
    except BaseException:
        socket.close(linger=0)
        raise
    return socket, pool


@contextlib.contextmanager
def deaf_to(number: signal.Signals) -> Iterator[None]:
    """Have this signal do nothing meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(number, nothing)
    try:
        yield
    finally:
        signal.signal(number, former)


def nothing(number: int, frame: FrameType | None) -> None:
    """What to do for a signal that means nothing now; unlike SIG_IGN, it is not inherited by our children."""


@contextlib.contextmanager
def _signals_to(end: End, reload: Callable[[], None] | None = None) -> Iterator[None]:
    """Have SIGINT and SIGTERM set it, once, and SIGHUP reload; only in the main thread, elsewhere that cannot be."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former: dict[signal.Signals, Any] = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        end.set()
        restore()

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    if reload is not None:
        former[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda number, frame: reload())
    for number in (signal.SIGINT, signal.SIGTERM):
        former[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()

"""App: functions with names, which worker processes answer requests with."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, overload

from spworkers.errors import BadOptionError, BadValueError
from spworkers.options import Place, keywords
from spworkers.workers.handler import Handler, HandlerOptions, check_name, check_text
from spworkers.workers.middleware.base import Middleware
from spworkers.workers.quantities import check_flag
from spworkers.workers.settings import drain_of, misspelt, workers_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from spworkers._coerce import Seconds
    from spworkers.workers.localclient import LocalClient
    from spworkers.workers.server import Server

__all__ = ["App", "Part"]

P = ParamSpec("P")
R = TypeVar("R")
Hook = TypeVar("Hook", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """A respondent, consumer or subscriber: a function with a socket and workers of its own.

    Attributes:
        listen, dial: addresses of its socket.
        workers: how many processes; None: as many as the server has for its handlers.
        options: of the socket.
    """

    handler: Handler[..., Any]
    listen: str | Iterable[str]
    dial: str | Iterable[str]
    workers: int | None
    options: dict[str, Any]


class App:
    """A set of handlers under one name.

    ```python
    app = sp.App("calc")

    @app.handler
    def add(a: int, b: int) -> int:
        return a + b

    app.serve("tcp://127.0.0.1:5555", workers=4)
    ```

    Args:
        name: what it is called in messages, processes' names and logs.
        middleware: hooks around its handlers, called in this order.

    Raises:
        BadValueError: the name is no text, or empty; something among the middleware is none.
    """

    def __init__(self, name: str, *, middleware: Iterable[Middleware] = ()) -> None:
        self.name = check_text(name, "an App's name")
        self.module: str = sys._getframe(1).f_globals.get("__name__", "__main__")
        self._handlers: dict[str, Handler[..., Any]] = {}
        self._raw: Handler[..., Any] | None = None
        self._parts: dict[str, Part] = {}
        self._on_start: list[Callable[..., Any]] = []
        self._on_stop: list[Callable[..., Any]] = []
        if not isinstance(middleware, Iterable):
            raise BadValueError(f"middleware is {middleware!r:.80}; it has to be objects of sp.Middleware's subclasses")
        self._middleware = list(middleware)
        for each in self._middleware:
            if not isinstance(each, Middleware):
                raise BadValueError(f"middleware is made of objects of subclasses of sp.Middleware, not {each!r:.80}")

    # --- what it is made of

    @property
    def handlers(self) -> Mapping[str, Handler[..., Any]]:
        """The handlers by their names."""
        return MappingProxyType(self._handlers)

    @property
    def raw_handler(self) -> Handler[..., Any] | None:
        """What answers every request that is no call; None: such requests are answered with an error."""
        return self._raw

    @property
    def starters(self) -> tuple[Callable[..., Any], ...]:
        """What runs once in every worker before its first request, in this order."""
        return tuple(self._on_start)

    @property
    def stoppers(self) -> tuple[Callable[..., Any], ...]:
        """What runs once in every worker after its last request, in this order."""
        return tuple(self._on_stop)

    @property
    def middleware(self) -> tuple[Middleware, ...]:
        """The hooks around its handlers, in the order in which they are called."""
        return tuple(self._middleware)

    @property
    def parts(self) -> Mapping[str, Part]:
        """The respondents, consumers and subscribers by their names: each has a socket and workers of its own."""
        return MappingProxyType(self._parts)

    # --- decorators

    @overload
    def handler(self, function: Callable[P, R], /) -> Handler[P, R]: ...
    @overload
    def handler(
        self,
        *,
        name: str | None = None,
        timeout: Seconds = None,
        retries: int | None = None,
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> Callable[[Callable[P, R]], Handler[P, R]]: ...
    def handler(  # type: ignore[misc]  # options are checked here, so that an unknown one is told the nearest
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Make a function a handler, bare (`@app.handler`) or with options (`@app.handler(timeout=30)`).

        Its parameters' annotations are what calls are checked against; one without takes anything. A keyword-only
        parameter `state` is no part of the call: it gets what `on_start` prepared.

        Args:
            name: what callers call it; None: the function's name.
            timeout: seconds after which its worker is killed and replaced, or the task of an async handler cancelled;
                None: what the server says.
            retries: how often the request goes to another worker when one died of it, or ran past the timeout; None:
                what the server says.
            retry_on: exceptions after which it is run again, up to `retries` times, in the same worker, after a pause
                that begins at 50 ms and doubles.

        Raises:
            BadOptionError, BadValueError: an option or an annotation is wrong, or the name is taken; here and now, when
                the module is imported.
        """

        def decorate(function: Callable[..., Any]) -> Handler[..., Any]:
            if not callable(function):
                raise BadValueError(f"a handler is a function, not {function!r:.80}")
            name = options.get("name")
            name = check_name(getattr(function, "__name__", None) if name is None else name)
            given = {key: value for key, value in options.items() if key != "name"}
            handler = Handler(function, name=name, options=HandlerOptions.check(given, f"handler {name}"))
            if name in self._handlers:
                raise BadValueError(f"{self!r} has a handler {name!r} already: give one of them another name=")
            self._handlers[name] = handler
            return handler

        return decorate if function is None else decorate(function)

    @overload
    def raw(self, function: Callable[P, R], /) -> Handler[P, R]: ...
    @overload
    def raw(
        self,
        *,
        timeout: Seconds = None,
        retries: int | None = None,
        retry_on: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> Callable[[Callable[P, R]], Handler[P, R]]: ...
    def raw(  # type: ignore[misc]  # as for handler()
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Make a function the one that answers every request which is no call: bytes in, bytes out.

        With it any SP peer is served, `nngcat --req` for instance. An App has one at most. What it raises is logged,
        and the peer gets an empty answer: the form of errors is its own affair.

        Args:
            timeout, retries, retry_on: as for `handler`.

        Raises:
            BadOptionError, BadValueError: an option is wrong, or there is a raw handler already.
        """

        def decorate(function: Callable[..., Any]) -> Handler[..., Any]:
            name = getattr(function, "__name__", "raw")
            handler = Handler(
                function, name=name, raw=True, options=HandlerOptions.check(options, f"raw handler {name}")
            )
            if self._raw is not None:
                raise BadValueError(
                    f"{self!r} has a raw handler already, {self._raw.name}: it answers all that is no call"
                )
            _check_raw(handler)
            self._raw = handler
            return handler

        return decorate if function is None else decorate(function)

    @overload
    def respondent(self, function: Callable[P, R], /) -> Handler[P, R]: ...
    @overload
    def respondent(self, **options: Any) -> Callable[[Callable[P, R]], Handler[P, R]]: ...
    def respondent(  # type: ignore[misc]  # as for handler()
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Make a function the one that answers surveys: `function(body: bytes)` returns bytes, or None for no answer.

        Args:
            name: what it is called; None: the function's name.
            listen, dial: an address, or several, for its RESPONDENT socket.
            workers: how many processes; None: as many as the server has for its handlers.
            timeout, retries, retry_on: as for `handler`. A survey whose worker died too often is not answered.
            options: any option of the socket by its keyword.

        Raises:
            BadOptionError, BadValueError: an option is wrong, or the name is taken.
        """
        return self._part("respondent", function, options)

    @overload
    def consumer(self, function: Callable[P, R], /) -> Handler[P, R]: ...
    @overload
    def consumer(self, **options: Any) -> Callable[[Callable[P, R]], Handler[P, R]]: ...
    def consumer(  # type: ignore[misc]  # as for handler()
        self, function: Callable[..., Any] | None = None, /, **options: Any
    ) -> Any:
        """Make a function the one that gets what a PULL socket receives, each message once: `function(body: bytes)`.

        A message goes to one worker and is kept until it has returned; if the worker dies it goes to another one. What
        the function raises is logged. While all workers are busy and the backlog is full, those who push have to wait.

        Args:
            name, listen, dial, workers, timeout, retries, retry_on, options: as for `respondent`.

        Raises:
            As `respondent`.
        """
        return self._part("consumer", function, options)

    def subscriber(self, *topics: bytes | str, **options: Any) -> Callable[[Callable[P, R]], Handler[P, R]]:
        """Make a function the one that gets what a SUB socket receives: `function(body: bytes)`.

        As `consumer`; but a full backlog loses its oldest message.

        Args:
            topics: what messages have to begin with; none: all messages.
            name, listen, dial, workers, timeout, retries, retry_on, options: as for `respondent`.

        Raises:
            As `respondent`.
        """
        decorate: Callable[[Callable[P, R]], Handler[P, R]] = self._part(
            "subscriber", None, {"subscribe": list(topics) or [b""], **options}
        )
        return decorate

    def _part(self, kind: str, function: Any, options: dict[str, Any]) -> Any:
        def decorate(function: Callable[..., Any]) -> Handler[..., Any]:
            name = check_name(options.get("name") or getattr(function, "__name__", None))
            _check_part(kind, name, options)
            return self.add_part(kind, function, name, options)

        return decorate if function is None else decorate(function)

    def add_part(
        self, kind: str, function: Callable[..., Any], name: str, options: dict[str, Any]
    ) -> Handler[..., Any]:
        """Make a function a respondent, consumer or subscriber; what the decorators of these names do."""
        own = {key: value for key, value in options.items() if key in ("timeout", "retries", "retry_on")}
        handler = Handler(function, name=name, raw=True, kind=kind, options=HandlerOptions.check(own, f"{kind} {name}"))
        if name in self._parts or name in self._handlers:
            raise BadValueError(f"{self!r} has {name!r} already: give one of them another name=")
        _check_raw(handler)
        rest = {key: value for key, value in options.items() if key not in (*own, "name")}
        self._parts[name] = Part(handler, rest.pop("listen", ()), rest.pop("dial", ()), rest.pop("workers", None), rest)
        return handler

    def on_start(self, function: Hook, /) -> Hook:
        """Run a function once in every worker, before its first request, as `function(state)`.

        It loads what handlers need. If it raises, the server does not start.
        """
        self._on_start.append(_check_hook(function, "on_start"))
        return function

    def on_stop(self, function: Hook, /) -> Hook:
        """Run a function once in every worker that ends in order, after its last request, as `function(state)`."""
        self._on_stop.append(_check_hook(function, "on_stop"))
        return function

    # --- use

    def client(self) -> LocalClient:
        """A client whose calls are answered here, without any process or socket: for tests of handlers.

        Calls take the way of all others (coded as bytes, decoded, checked, run, coded again), so what works with it
        works over a socket. Close it, or use it with `with`, to have `on_stop` run.
        """
        from spworkers.workers.localclient import LocalClient

        return LocalClient(self)

    @overload
    def serve(
        self,
        listen: str | Iterable[str] = (),
        *,
        dial: str | Iterable[str] = (),
        workers: int | None = None,
        executor: Executor | None = None,
        block: Literal[True] = True,
        drain: Seconds = 10.0,
        **options: Any,
    ) -> None: ...
    @overload
    def serve(
        self,
        listen: str | Iterable[str] = (),
        *,
        dial: str | Iterable[str] = (),
        workers: int | None = None,
        executor: Executor | None = None,
        block: Literal[False],
        drain: Seconds = 10.0,
        **options: Any,
    ) -> Server: ...
    def serve(
        self,
        listen: str | Iterable[str] = (),
        *,
        dial: str | Iterable[str] = (),
        workers: int | None = None,
        executor: Executor | None = None,
        block: bool = True,
        drain: Seconds = 10.0,
        **options: Any,
    ) -> Server | None:
        """Serve the handlers in worker processes, until SIGINT or SIGTERM; with `block=False`, beside you.

        ```python
        with app.serve("tcp://127.0.0.1:0", workers=2, block=False) as server:
            ...
        ```

        Args:
            listen: an address, or several; for the handlers (respondents, consumers and subscribers have their own).
            dial: likewise, of a broker (a `device`, to whose other socket clients dial), for instance.
            workers: how many processes; None: as many as there are processors for us.
            executor: any `concurrent.futures.Executor` (sp.Pool, a ThreadPoolExecutor, Dask's or Ray's): the sockets,
                backlog and deadlines stay here, the handlers run there. It stays yours. `workers` is then how many
                requests it runs at once, where it does not say itself.
            block: wait for a signal, then finish what is at hand and return; False: return the running server.
            drain: seconds that the requests at hand get at the end of a blocking server.
            options: how requests are run (`timeout`, `retries`, `backlog`, `max_tasks`, `memory_limit`, `affinity` … as
                `spworkers.workers.settings.Settings` has them), and any option of `Rep` by its keyword, `tls_config`
                for instance.

        Raises:
            As `Server`.
        """
        from spworkers.workers.server import Server, deaf_to

        drain_of(drain, "drain")
        if not check_flag(block, "block"):
            return Server(self, listen, dial=dial, workers=workers, executor=executor, **options)
        with deaf_to(signal.SIGHUP):  # it is not for workers that are new, or about to end
            server = Server(self, listen, dial=dial, workers=workers, executor=executor, **options)
            try:
                server.wait()
            finally:
                server.close(drain)
        return None

    def __repr__(self) -> str:
        parts = [f"{len(self._handlers)} handler{'' if len(self._handlers) == 1 else 's'}"]
        parts += ["raw"] if self._raw is not None else []
        parts += [f"{part.handler.kind} {name}" for name, part in self._parts.items()]
        return f"<App {self.name}: {', '.join(parts)}>"


_PART_PROTOCOLS: Final = {"respondent": "respondent", "consumer": "pull", "subscriber": "sub"}


def _check_hook(function: Hook, which: str) -> Hook:
    if not callable(function):
        raise BadValueError(f"an {which} function is one, called with the worker's state, not {function!r:.80}")
    from spworkers.workers.arguments import plain_function

    plain = plain_function(inspect.unwrap(function))
    if inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        name = getattr(function, "__name__", function)
        raise BadValueError(
            f"{which} function {name} is a generator function, whose body nobody would run: on_start prepares, on_stop"
            " clears up"
        )
    return function


def _check_part(kind: str, name: str, options: dict[str, Any]) -> None:
    """Raise what is wrong with a part's options, its socket's and its addresses included, where they are written."""
    from spworkers.socket import addresses_of  # of which an App without such parts has no need

    who = f"{kind} {name}"
    addresses: list[str] = []
    for side in ("listen", "dial"):
        addresses += addresses_of(options.get(side, ()), f"{who}: {side}")
    if not addresses:
        raise BadValueError(f"{who} would receive nothing: give it listen= or dial=, an address")
    for address in addresses:
        check_text(address, f"{who}: an address")
    if options.get("workers") is not None:
        workers_of(options["workers"], f"{who}: workers")
    ours = {"name", "listen", "dial", "workers", "timeout", "retries", "retry_on"}
    place = Place.socket(_PART_PROTOCOLS[kind], raw=False)
    try:
        keywords({key: value for key, value in options.items() if key not in ours}, place)
    except BadOptionError as error:
        raise misspelt(error, who, ours) from None
    except BadValueError as error:
        raise BadValueError(f"{who}: {error}") from None


def _check_raw(handler: Handler[..., Any]) -> None:
    """A raw handler is called with one argument, the body."""
    state = {"state": None} if handler.parameters.takes_state else {}
    try:
        inspect.signature(handler.function).bind(b"", **state)
    except TypeError as error:
        raise BadValueError(
            f"{handler.kind_text} {handler.name}{handler.parameters.text} must take one argument, the body: {error}"
        ) from None

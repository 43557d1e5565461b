"""The I/O process's answers to its clients: the user's process, workers, processes that were handed a context."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import os
from collections import ChainMap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from spworkers.channel import Channel, close_fds
from spworkers.errors import BadOptionError, ClosedError, InternalError, ResourceError
from spworkers.ioproc.attaching import Attaching
from spworkers.ioproc.bridge import Crossing
from spworkers.ioproc.broker import SupervisorLine
from spworkers.ioproc.counters import BAD_HANDSHAKES, CAUSES, NAMES, REFUSED
from spworkers.ioproc.dialer import DialerDriver
from spworkers.ioproc.dialer import State as Dialing
from spworkers.ioproc.hub import Hub
from spworkers.ioproc.line import Line
from spworkers.ioproc.listener import ListenerDriver
from spworkers.ioproc.listener import State as Listening
from spworkers.ioproc.logs import unanswered
from spworkers.ioproc.ports import ContextPort
from spworkers.messages import answer, failure
from spworkers.options import as_wire, defaults
from spworkers.outbox import OUTBOX_LIMIT
from spworkers.protocol.deal import Deal
from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import Obituary
from spworkers.protocols import ProtocolInfo
from spworkers.ring import CONTEXTS, MAX_WINDOW, Segment
from spworkers.schemes import TRANSPORT
from spworkers.transport import register

log = logging.getLogger(__name__)

MAIN = "main"
"""The key of the client that opened the socket."""


OBITUARY_TIME = 0.5
"""Seconds that a worker whose channel has ended may stay undead: the supervisor has it from the kernel at once."""

RESTING = (
    Dialing.IDLE,
    Dialing.CLOSED,
    Listening.IDLE,
    Listening.BINDING,
    Listening.CLOSED,
)
"""States of endpoints that a successor does not set going again."""

MOVED = "context-"
"""So begins the key of a client that took a context over: `context-<index>-…`."""


class WithFds(NamedTuple):
    """An answer with descriptors."""

    value: Any
    fds: Sequence[int]


class Control:
    """Holds the socket's configuration and does what clients ask."""

    def __init__(
        self,
        hub: Hub,
        loop: asyncio.AbstractEventLoop,
        supervisor: SupervisorLine,
        protocol: ProtocolInfo,
        options: dict[str, Any],
        defaults: dict[str, Any],
        generation: int,
        name: str,
    ) -> None:
        self.hub = hub
        self.loop = loop
        self.supervisor = supervisor
        self.protocol = protocol
        self.own = options
        self.options: ChainMap[str, Any] = ChainMap(options, defaults)
        self.generation = generation
        self.name = name
        self.attaching = Attaching(hub, loop, self.options, self._tell)
        self.clients: dict[str, Line] = {}
        self.dialers: dict[int, DialerDriver] = {}
        self.listeners: dict[int, ListenerDriver] = {}
        self.endpoint_options: dict[tuple[str, int], dict[str, Any]] = {}
        self.context_options: dict[int, dict[str, Any]] = {}
        self.topics: dict[int, dict[bytes, None]] = {}  # of SUB's contexts
        self.inherited: set[tuple[str, int]] = set()  # endpoints that a predecessor had started
        self.retired: dict[int, Segment] = {}  # contexts that were closed, whose memory is in use still
        self.promised: dict[int, str] = {}  # context numbers given to clients that have not opened them yet
        self.tasks: set[asyncio.Task[None]] = set()
        self.crossing: Crossing | None = None  # to the other socket of a device
        self.on_close: Callable[[float], Awaitable[None]] = _no_close
        hub.on_kill = self._kill
        hub.on_cancel = self._cancel
        hub.on_report = self._report

    # ---- clients

    def join(self, key: str, channel: Channel) -> None:
        """A client's channel: from the supervisor, or from another client for a process that takes a context over."""
        former = self.clients.pop(key, None)
        if former is not None:
            former.close()
        # A worker may be told to stop everything that its lane holds.
        limit = OUTBOX_LIMIT if key == MAIN else OUTBOX_LIMIT + MAX_WINDOW
        line = Line(
            self.loop,
            channel,
            lambda message, fds: self._asked(key, message, fds),
            lambda: self._left(key, line),
            limit,
        )
        self.clients[key] = line
        line.say({"t": "hello", "generation": self.generation})

    def gone(self, key: str, obituary: Obituary) -> None:
        """A client died, whoever else may still hold its channel open."""
        line = self.clients.get(key)
        if line is not None:
            self._forget_client(key, line)
            line.close()
        self._bury_client(key, obituary, dead=True)

    def _forget_client(self, key: str, line: Line) -> None:
        if self.clients.get(key) is line:
            del self.clients[key]

    def _left(self, key: str, line: Line) -> None:
        """A client's channel has ended. Of a worker the supervisor will tell in a moment how it died."""
        self._forget_client(key, line)
        if key == MAIN:
            return  # the supervisor ends us when its parent has died
        if key.startswith(MOVED):
            self._bury_client(key, Obituary())
        elif key not in self.clients:
            self.loop.call_later(OBITUARY_TIME, self._bury_client, key, Obituary())

    def _bury_client(self, key: str, obituary: Obituary, *, dead: bool = False) -> None:
        """A client is gone, with its contexts. `dead`: its process is, which would else be reading there perhaps."""
        if key in self.clients:
            return
        self.promised = {index: client for index, client in self.promised.items() if client != key}
        indexes = [port.index for port in self.hub.contexts.values() if port.client == key]
        self.hub.machine.obituary = obituary
        for index in indexes:
            self.bury_context(index, dead=dead)
        self.hub.machine.obituary = Obituary()
        self.supervisor.drop(f"client:{key}")

    def _tell(self, message: dict[str, Any]) -> bool:
        line = self.clients.get(MAIN)
        if line is None:
            return False
        line.say(message)
        return True

    def notify(self, message: dict[str, Any]) -> bool:
        """News for the user's process that may be lost. False: nobody listens."""
        line = self.clients.get(MAIN)
        return line is not None and line.notify(message)

    def _kill(self, context: int, reason: str) -> None:
        port = self.hub.contexts.get(context)
        if port is not None:
            self.supervisor.kill(port.client, reason)

    def _report(self, cause: str, handler: str, call: bytes, seconds: float, text: str) -> None:
        """A request that no worker has answered: for the logs of the user's process."""
        self.notify(unanswered(self.name, cause, handler, call, seconds, text))

    def _cancel(self, context: int, serial: int) -> None:
        port = self.hub.contexts.get(context)
        line = None if port is None else self.clients.get(port.client)
        if line is not None:
            line.say({"t": "cancel", "serial": serial})

    # ---- requests

    def _asked(self, key: str, message: dict[str, Any], fds: list[int]) -> None:
        handler = getattr(self, f"do_{message['t']}", None)
        number = message.get("id")
        line = self.clients[key]
        if number is not None and line.asked_before(number):
            close_fds(fds)
            return
        if handler is None:
            close_fds(fds)
            if number is not None:
                line.say(failure(number, InternalError(f"an I/O process does not answer {message['t']!r}")))
            return
        fields = {name: value for name, value in message.items() if name not in ("t", "id")}
        if message["t"] in ("open_context", "client", "connection", "device"):
            fields.update(fds=fds, asker=key)
        elif message["t"] == "join":
            fields["asker"] = key
        try:
            value = handler(**fields)
        except Exception as error:
            self._failed(line, number, error)
            return
        if hasattr(value, "__await__"):
            task = self.loop.create_task(self._finish(line, number, value))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif number is not None:
            if isinstance(value, WithFds):
                line.say(answer(number, value.value), value.fds)
            else:
                line.say(answer(number, value))

    async def _finish(self, line: Line, number: int | None, work: Any) -> None:
        try:
            value = await work
        except asyncio.CancelledError:
            if number is not None:
                line.say(failure(number, ClosedError("the socket was closed meanwhile")))
            raise
        except Exception as error:
            self._failed(line, number, error)
            return
        if number is not None:
            line.say(answer(number, value))

    def _failed(self, line: Line, number: int | None, error: Exception) -> None:
        if number is not None:
            line.say(failure(number, error))
        else:
            log.warning("%s", error)

    # ---- contexts

    def do_client(self, key: str, fds: list[int], asker: str = MAIN) -> None:
        """A further client, by the descriptor of its channel."""
        self.supervisor.keep(f"client:{key}", {}, fds)
        self.join(key, Channel.from_fd(fds[0]))
        if key.startswith(MOVED):
            self._hand_over(int(key.split("-")[1]), key)

    def _hand_over(self, index: int, client: str) -> None:
        """A context is this client's from now on, and ends with it."""
        port = self.hub.contexts.get(index)
        if port is not None:
            port.client = client
            self._keep_context(port)

    def _keep_context(self, port: ContextPort) -> None:
        facts = {"options": self.context_options[port.index], "client": port.client}
        self.supervisor.keep(f"context:{port.index}", facts, port.bells)

    def do_open_context(self, index: int, options: dict[str, Any], fds: list[int], asker: str) -> None:
        """A context's bells; its rings lie at `index` of the region."""
        port = self.hub.contexts.get(index)
        if port is not None and port.client == asker:
            close_fds(fds)  # asked again, because our predecessor had died before it could answer
            return
        if port is not None:
            close_fds(fds)
            raise ResourceError(f"context {index} of this socket is a worker's; it has {CONTEXTS} at most")
        self.promised.pop(index, None)
        self.open_context(index, options, fds, asker)
        self._keep_context(self.hub.contexts[index])

    def open_context(self, index: int, options: dict[str, Any], fds: list[int], client: str) -> None:
        """Open it, whoever asked; also when it is a predecessor's."""
        port = ContextPort(index, self.hub.region.segment(index), fds[0], fds[1], client)
        self.context_options[index] = options
        port.inlet.window = options.get("READQ-LEN", self.options.get("READQ-LEN", 0)) or 0
        again = options.get("RETRY-TIME", self.options.get("RETRY-TIME", math.inf)) != 0
        self.hub.open_context(port, options, again=again)

    def do_join(self, asker: str = "") -> WithFds:
        """A worker wants a context; numbers for those come from the far end, the user's from the near one."""
        for index in list(self.retired):
            self._recycle(index)
        taken = self.hub.contexts.keys() | self.promised | self.retired.keys()
        index = next((n for n in range(CONTEXTS - 1, 0, -1) if n not in taken), 0)
        if not index:
            raise ResourceError(f"the socket has {CONTEXTS} contexts, which is the limit")
        self.promised[index] = asker
        self.hub.region.punch(index)  # a worker that died with a former supervisor may have left something there
        options = {name: as_wire(value) for name, value in self.options.items()}
        facts = {"index": index, "protocol": self.protocol.name, "name": self.name, "options": options}
        return WithFds(facts, [self.hub.region.fd, self.hub.io_bell])

    def do_dispatch(self, errors: str, options: dict[str, Any]) -> None:
        """From now on what this socket receives is dealt to workers; its own context gets nothing."""
        known = defaults(self.protocol.name, False)
        for name in [name for name in self.own if name not in known]:
            del self.own[name]  # it was a former dispatcher's: that it was draining, say
        self.supervisor.keep("options", self.own)
        self.supervisor.keep("dispatch", {"errors": errors, "options": options})
        port = self.hub.contexts.get(0)
        if port is not None:
            self.hub.drain(port)
            self.hub.forget_context(0)
        own = dict(self.own)
        self.hub.replace(lambda out: dispatcher(self.protocol.name, errors, {**options, **own}, out))
        for topic in self.topics.get(0, {}):
            self.hub.machine.configure(0, "SUBSCRIBE", topic)
        self.hub.settle()

    def do_close_context(self, index: int) -> bool:
        """Close it. False: some of it is in use still (a lease, an unsent message); ask again to reuse its number."""
        self.bury_context(index)
        return self._recycle(index)

    def bury_context(self, index: int, *, dead: bool = False) -> None:
        """Close a context for good. `dead`: its user is, and reads nothing that he had taken."""
        port = self.hub.contexts.get(index)
        if port is None:
            return
        self.hub.close_context(index)
        self.context_options.pop(index, None)
        if self.topics.pop(index, None) is not None:
            self.supervisor.drop(f"topics:{index}")
        self.supervisor.drop(f"context:{index}")
        close_fds(port.bells)
        if dead:
            port.segment.silence(True)
        self.retired[index] = port.segment

    def _recycle(self, index: int) -> bool:
        """Empty the memory of a context that was closed, once nothing of it is in use. Rings are never used twice."""
        segment = self.retired.get(index)
        if segment is not None:
            segment.silence()  # a receive that the close has surprised may be about to take what lies there
            if segment.quiet():
                del self.retired[index]
                self.hub.region.punch(index)
        return index not in self.retired

    # ---- devices

    def do_device(self, best_effort: bool, fail_no_peers: bool, fds: list[int], asker: str = MAIN) -> None:
        """What the socket receives goes to the other socket of a device from now on.

        Args:
            best_effort: BEST-EFFORT of that one.
            fail_no_peers: likewise.
            fds: its region, I/O bell and send bell; none: it is this socket.
        """
        if self.crossing is None:
            self.crossing = Crossing(self.hub, fds, headers=not fds or self.protocol.name != "bus")
            self.hub.relay(True)
        else:
            close_fds(fds)  # asked again, because our predecessor had died before it could answer
        self.do_device_options(best_effort, fail_no_peers)

    def do_device_options(self, best_effort: bool, fail_no_peers: bool) -> None:
        """Options of the other socket changed."""
        if self.crossing is not None:
            self.crossing.change(best_effort, fail_no_peers)
            facts = {"best_effort": best_effort, "fail_no_peers": fail_no_peers}
            self.supervisor.keep("device", facts, self.crossing.fds)

    def do_end_device(self) -> None:
        """What the socket receives is its user's again."""
        self.supervisor.drop("device")
        if self.crossing is not None:
            self.crossing.end()
            self.crossing = None
            self.hub.relay(False)

    # ---- options

    def do_set_option(self, place: str, key: int, name: str, value: Any) -> None:
        """A validated option of the socket, a context, a dialer or a listener."""
        if name in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            self.subscribe(key, name, value if isinstance(value, list) else [value])
        elif place == "socket":
            _put(self.own, name, value)
            self.supervisor.keep("options", self.own)
            self.configure(None, name, value)
        elif place == "context":
            port = self.hub.contexts.get(key)
            if port is None:
                raise ClosedError(f"context {key} is closed")
            _put(self.context_options[key], name, value)
            self._keep_context(port)
            self.configure(key, name, value)
        else:
            options = self.endpoint_options.get((place, key))
            if options is None:
                raise ClosedError(f"there is no {place} {key}")
            _put(options, name, value)
            self._keep_endpoint(place, key)

    def subscribe(self, context: int, name: str, topics: list[bytes]) -> None:
        """Topics of a context, 0 for the socket's own, to be added or taken away (UNSUBSCRIBE)."""
        known = self.topics.setdefault(context, {})
        for topic in topics:
            if name == "SUBSCRIBE":
                known[topic] = None
            else:
                known.pop(topic, None)
            self.configure(context, name, topic)
        self.supervisor.keep(f"topics:{context}", {"topics": list(known)})

    def configure(self, context: int | None, name: str, value: Any) -> None:
        """Tell the machine."""
        hub = self.hub
        hub.machine.now = self.loop.time()
        hub.machine.configure(context, name, value)
        for port in list(hub.contexts.values()):
            hub.machine.context_wants(port.index)
        hub.settle()

    def do_get_option(self, place: str, key: int, name: str) -> Any:
        options = self.options if place == "socket" else self.endpoint_options.get((place, key), {})
        if name not in options:
            raise BadOptionError(f"{name} is not set at {place} {key}", name)
        return options[name]

    # ---- dialers and listeners

    def do_new_dialer(self, key: int, address: str, options: dict[str, Any]) -> None:
        if key not in self.dialers:
            self.new_dialer(key, address, options)
            self._keep_endpoint("dialer", key)

    def new_dialer(self, key: int, address: str, options: dict[str, Any]) -> None:
        """Make one; also a predecessor's, which is kept already."""
        _know_transport(address, options)
        self.endpoint_options["dialer", key] = options
        self.dialers[key] = DialerDriver(
            key,
            address,
            ChainMap(options, self.options),
            own=self.protocol.number,
            peer=self.protocol.peer_number,
            on_link=self.attaching.attach,
            loop=self.loop,
            count=self._count,
        )

    async def do_dial(self, key: int) -> None:
        if not self._asked_again("dialer", key):
            await self.dial(key)

    async def dial(self, key: int) -> None:
        driver = self._endpoint(self.dialers, key, "dialer")
        await driver.dial()
        if key in self.dialers:
            self._keep_endpoint("dialer", key)

    def _keep_endpoint(self, kind: str, key: int) -> None:
        register: dict[int, Any] = self.dialers if kind == "dialer" else self.listeners
        driver = register[key]
        active = driver.state not in RESTING
        fds = [driver.fileno()] if kind == "listener" and driver.fileno() >= 0 else []
        facts = {"address": driver.address, "options": self.endpoint_options[kind, key], "active": active}
        self.supervisor.keep(f"{kind}:{key}", facts, fds)

    def do_close_dialer(self, key: int) -> None:
        driver = self.dialers.pop(key, None)
        if driver is not None:
            driver.close()
        self.endpoint_options.pop(("dialer", key), None)
        self.supervisor.drop(f"dialer:{key}")

    def do_new_listener(self, key: int, address: str, options: dict[str, Any]) -> None:
        if key not in self.listeners:
            self.new_listener(key, address, options)
            self._keep_endpoint("listener", key)

    def new_listener(self, key: int, address: str, options: dict[str, Any]) -> None:
        """Make one; also a predecessor's, which is kept already."""
        _know_transport(address, options)
        self.endpoint_options["listener", key] = options
        self.listeners[key] = ListenerDriver(
            key,
            address,
            ChainMap(options, self.options),
            own=self.protocol.number,
            peer=self.protocol.peer_number,
            on_link=self.attaching.attach,
            loop=self.loop,
            count=self._count,
        )

    async def do_listen(self, key: int) -> str:
        driver: ListenerDriver = self._endpoint(self.listeners, key, "listener")
        return driver.address if self._asked_again("listener", key) else await self.listen(key)

    def _asked_again(self, kind: str, key: int) -> bool:
        """A predecessor had started it, and died before its answer was heard; we start it anyway."""
        again = (kind, key) in self.inherited
        self.inherited.discard((kind, key))
        return again

    async def listen(self, key: int, inherited: int | None = None) -> str:
        driver: ListenerDriver = self._endpoint(self.listeners, key, "listener")
        address = await driver.listen(inherited)
        if key in self.listeners:
            self._keep_endpoint("listener", key)
        return address

    def do_close_listener(self, key: int) -> None:
        driver = self.listeners.pop(key, None)
        if driver is not None:
            driver.close()
        self.endpoint_options.pop(("listener", key), None)
        self.supervisor.drop(f"listener:{key}")

    def do_connection(self, key: int, facts: dict[str, Any], fds: list[int], asker: str) -> None:
        """A connection that somebody else accepted, for one of our listeners."""
        try:
            driver: ListenerDriver = self._endpoint(self.listeners, key, "listener")
            driver.bring(fds[0], facts)
        except ClosedError:
            close_fds(fds)  # the other end sees that it has ended
            raise

    def _endpoint(self, register: dict[int, Any], key: int, what: str) -> Any:
        try:
            return register[key]
        except KeyError:
            raise ClosedError(f"{what} {key} is closed") from None

    def _count(self, cause: str) -> None:
        self.hub.region.add(REFUSED if cause == "listener_full" else BAD_HANDSHAKES)
        self.hub.count(cause)

    # ---- pipes, statistics, the end

    def do_close_pipe(self, key: int) -> None:
        self.attaching.close_pipe(key)

    def do_pipes(self) -> list[dict[str, Any]]:
        return [pipe.info() for pipe in self.hub.pipes.values() if not pipe.hung_up]

    def do_hook(self, on: bool) -> None:
        self.attaching.hook = on
        self.supervisor.keep("hook", {"on": on})

    def do_verdict(self, event: int, accept: bool, status: int | None = None, reason: str | None = None) -> None:
        self.attaching.verdict(event, accept, status or 0, reason or "")

    def do_stats(self) -> dict[str, Any]:
        region = self.hub.region
        found: dict[str, Any] = {name: region.counter(index) for index, name in enumerate(NAMES)}
        found.update(self.hub.totals())
        found["pipes"] = len(self.hub.pipes) - self.hub.hung_up
        found["contexts"] = len(self.hub.contexts)
        found["generation"] = self.generation
        found["pid"] = os.getpid()
        machine = self.hub.machine
        if isinstance(machine, Dispatcher):
            found.update(idle=machine.idle, waiting=machine.waiting, streams=machine.streams)
        found["drops"] = {cause: n for cause, index in CAUSES.items() if (n := region.counter(index))}
        return found

    async def do_close(self, linger: float) -> dict[str, Any]:
        """The end; answered with the last figures there will be."""
        await self.on_close(linger)
        return self.do_stats()

    def leave_moved(self) -> None:
        """The socket is closed: so are its contexts in other processes, which cannot know it otherwise."""
        for port in self.hub.contexts.values():
            if port.client.startswith(MOVED):
                port.inlet.close()
                port.ring()

    def stop_endpoints(self) -> None:
        """No more pipes from here on."""
        for dialer in self.dialers.values():
            dialer.close()
        for listener in self.listeners.values():
            listener.close()

    def stop_accepting(self, *, everywhere: bool) -> None:
        """Only dialers that somebody has dialled before go on, for the sake of what still waits to be sent.

        Args:
            everywhere: so do listeners, otherwise.
        """
        for listener in self.listeners.values() if everywhere else ():
            listener.close()
        for dialer in self.dialers.values():
            if dialer.pending:
                dialer.close()


def dispatcher(protocol: str, errors: str, options: dict[str, Any], out: Any) -> Dispatcher:
    """The machine that deals requests (REP, RESPONDENT) or messages (PULL, SUB) to workers.

    Args:
        errors: `"module:name"` of the format of error answers (`ErrorFormat`).
        options: PREFETCH, BACKLOG, RETRIES, TIMEOUT … of the dispatcher; and those of the socket that somebody has
            set: a dispatcher has defaults of its own.
    """
    module, _, name = errors.partition(":")
    machine: Dispatcher
    if protocol in ("pull", "sub"):
        machine = Deal(out, displaces=protocol == "sub")
    else:
        machine = Dispatcher(out, getattr(importlib.import_module(module), name) if errors else None)
    for option, value in options.items():
        machine.configure(None, option, value)
    return machine


def _put(options: dict[str, Any], name: str, value: Any) -> None:
    """Keep a value; None: what is inherited, or the default, holds again."""
    if value is None:
        options.pop(name, None)
    else:
        options[name] = value


def _know_transport(address: str, options: Mapping[str, Any]) -> None:
    """If a third party's transport serves this address, its name came along."""
    target = options.get(TRANSPORT)
    if target is not None:
        register(address.partition("://")[0], target)


async def _no_close(linger: float) -> None:
    return None

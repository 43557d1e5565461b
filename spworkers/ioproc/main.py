"""The I/O process: from its boot to its end."""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401 - what a host name's first look-up imports
import logging
import os
from typing import TYPE_CHECKING, Any

from spworkers.channel import Channel, close_fds
from spworkers.errors import ClosedError
from spworkers.ioproc.broker import SupervisorLine
from spworkers.ioproc.control import MAIN, Control, dispatcher
from spworkers.ioproc.counters import CAUSES, IN_HAND
from spworkers.ioproc.facts import facts_of
from spworkers.ioproc.hub import Hub
from spworkers.ioproc.logs import forward_logs
from spworkers.ioproc.loop import new_loop, watch_of
from spworkers.ioproc.pipes import ALL_BITS
from spworkers.messages import unpack_facts
from spworkers.options import defaults
from spworkers.protocol import Machine, machine_for
from spworkers.protocol.machine import Obituary
from spworkers.protocols import PROTOCOLS
from spworkers.ring import Region
from spworkers.transport import Link
from spworkers.transport.inproc import install_broker
from spworkers.transport.registry import transport_for
from spworkers.transport.sharedlink import lend_from

if TYPE_CHECKING:
    from spworkers.supervisor.boot import Boot

log = logging.getLogger(__name__)

SILENT_PROTOCOLS = frozenset({"req", "surveyor"})
"""What these have not yet handed to a pipe is pointless once the asker is closed: LINGER does not wait for it."""

FOR_ANYBODY = frozenset({"push", "pair", "pair1", "req"})
"""What these (of REQ, the raw ones) have to send is for whoever comes: they listen on for as long as LINGER waits."""


def warm_up() -> None:
    """In the supervisor, before any fork: what a first loop makes is then shared by all I/O processes."""
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    defaults("rep")
    for scheme in ("inproc", "ipc", "tcp", "tls+tcp"):
        transport_for(f"{scheme}://")


def run(boot: Boot) -> int:
    """The entry point: serve one socket until it is closed."""
    loop = new_loop()
    process = IOProcess(loop, boot)
    forward_logs(process.control.notify, boot.spec["log_level"])
    loop.call_soon(process.start)
    try:
        loop.run_until_complete(process.ended)
    finally:
        process.finish()
    return 0


class IOProcess:
    """One socket's hub, control and line to the supervisor, and how they begin and end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, boot: Boot) -> None:
        self.loop = loop
        self.boot = boot
        self.ended: asyncio.Future[None] = loop.create_future()
        self.shutting: asyncio.Task[None] | None = None
        spec = boot.spec
        channel_fd, region_fd, io_bell, recv_bell, send_bell = boot.fds
        self.first = (Channel.from_fd(channel_fd), [recv_bell, send_bell])
        region = Region.attach(region_fd)
        os.close(region_fd)
        region.generation = boot.generation
        region.pipes = region.ready_pipes = 0
        region.clear_congested()
        lost = region.counter(IN_HAND)
        if lost:  # with a predecessor
            region.add(CAUSES["io_died"], lost)
            region.add(IN_HAND, ALL_BITS + 1 - lost)
        self.kept = {name: (unpack_facts(blob), fds) for name, (blob, fds) in boot.kept.items()}
        options: dict[str, Any] = dict(self.kept.get("options", (spec["options"], []))[0])
        self.hub = Hub(loop, watch_of(loop), region, io_bell, self._machine)
        self.supervisor = SupervisorLine(loop, boot.channel, self._notice, self._orphaned)
        install_broker(self.supervisor)
        lend_from(region)
        values = {**defaults(spec["protocol"], spec["raw"]), **options}
        self.control = Control(
            self.hub, loop, self.supervisor, PROTOCOLS[spec["protocol"]], options, values, boot.generation, spec["name"]
        )
        self.control.on_close = self._close
        # A dispatcher has defaults of its own.
        for name, value in (options if "dispatch" in self.kept else values).items():
            self.hub.machine.configure(None, name, value)

    def _machine(self, out: Any) -> Machine:
        """The protocol's machine; a dispatcher if a predecessor's requests were dealt to workers."""
        if "dispatch" in self.kept:
            facts = self.kept["dispatch"][0]
            return dispatcher(self.boot.spec["protocol"], facts["errors"], facts["options"], out)
        return machine_for(self.boot.spec["protocol"], self.boot.spec["raw"])(out)

    def start(self) -> None:
        """Open what there is: the socket's own context, and whatever a predecessor left."""
        control = self.control
        channel, bells = self.first
        try:
            if "dispatch" not in self.kept:
                control.open_context(0, {}, bells, MAIN)
            for name, (facts, fds) in sorted(self.kept.items()):
                self._inherit(name, facts, fds)
            self.hub.start(PROTOCOLS[self.boot.spec["protocol"]].exchange)
            for port in self.hub.contexts.values():
                port.ring()
            control.join(MAIN, channel)
            self._bury_clients()
        except Exception as error:
            self.ended.set_exception(error)

    def _bury_clients(self) -> None:
        """Contexts whose owners died together with our predecessor: what they had published goes out, then they end."""
        living = {MAIN, *self.boot.clients, *(name.removeprefix("client:") for name in self.kept)}
        for port in list(self.hub.contexts.values()):
            if port.client not in living:
                self.control.bury_context(port.index, dead=True)

    def _inherit(self, name: str, facts: dict[str, Any], fds: list[int]) -> None:
        kind, _, rest = name.partition(":")
        control = self.control
        if kind == "context":
            control.open_context(int(rest), facts["options"], fds, facts["client"])
        elif kind == "client":
            control.join(rest, Channel.from_fd(fds[0]))
        elif kind == "listener":
            control.new_listener(int(rest), facts["address"], facts["options"])
            if facts["active"]:
                control.inherited.add((kind, int(rest)))
                self._background(control.listen(int(rest), fds[0] if fds else None))
        elif kind == "dialer":
            again = {**facts["options"], "DIAL-ASYNCH": True} if facts["active"] else facts["options"]
            control.new_dialer(int(rest), facts["address"], again)
            if facts["active"]:
                control.inherited.add((kind, int(rest)))
                self._background(control.dial(int(rest)))
        elif kind == "topics":
            control.subscribe(int(rest), "SUBSCRIBE", facts["topics"])
        elif kind == "device":
            control.do_device(facts["best_effort"], facts["fail_no_peers"], fds)
        elif kind == "hook":
            control.attaching.hook = facts["on"]

    def _background(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.control.tasks.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self.control.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ClosedError):  # closed meanwhile: that is an order, no failure
            log.warning("after a restart: %s", error)

    def _notice(self, message: dict[str, Any], fds: list[int]) -> None:
        kind = message["t"]
        if kind == "client":
            self.control.join(message["key"], Channel.from_fd(fds[0]))
        elif kind == "client_gone":
            status = message.get("status")
            code = None if status is None else os.waitstatus_to_exitcode(status)
            obituary = Obituary(message.get("reason", ""), message["pid"], code, message.get("ended", False))
            self.control.gone(message["key"], obituary)
        else:
            close_fds(fds)
            if kind == "stop":
                self._background(self._stop(message["grace"]))
            elif kind == "look":
                self.supervisor.seen(facts_of(self.control))

    def _orphaned(self) -> None:
        """The supervisor is gone, and we with it, whether the kernel has told us yet or not."""
        os._exit(1)

    # ---- the end

    async def _close(self, linger: float) -> None:
        """Drain what was sent, then go. The answer is given as soon as the kernel has it all, or the time is over."""
        self.control.stop_accepting(everywhere=not self._newcomers_help())
        self.control.leave_moved()
        deadline = self.loop.time() + linger
        await self._drained(linger)
        self.control.stop_endpoints()
        left = self._unsent()
        if left:
            self.hub.count("closed", n=left)
            spec = self.boot.spec
            who = f"{spec['protocol']} socket {spec['name']}".rstrip()
            what = "1 message was" if left == 1 else f"{left} messages were"
            them = "it" if left == 1 else "them"
            if linger > 0:
                advice = f"of {linger:.3g} s: nobody took {them}; see that a peer is there and reads"
                log.warning("%s: %s not sent within its LINGER %s", who, what, advice)
            else:
                log.warning("%s: %s not sent within its LINGER, which was not to wait for %s", who, what, them)
        self.shutting = self.loop.create_task(self._shut(max(deadline - self.loop.time(), 0.0)))

    async def _stop(self, grace: float) -> None:
        """The supervisor says that it is over; the user's process has closed the socket before, usually."""
        if self.shutting is None:
            await self._close(grace)
        if self.shutting is not None:
            await self.shutting

    async def _drained(self, linger: float) -> None:
        """Wait until the kernel has everything, at most `linger` seconds."""
        done: asyncio.Future[None] = self.loop.create_future()

        def look() -> None:
            if not self._unsent() and not done.done():
                done.set_result(None)

        self.hub.on_settled = look
        look()
        try:
            await asyncio.wait_for(done, linger)
        except asyncio.TimeoutError:
            pass
        finally:
            self.hub.on_settled = None

    def _newcomers_help(self) -> bool:
        """Whether there are messages for whoever comes first, and nobody to take them."""
        return self.boot.spec["protocol"] in FOR_ANYBODY and self._waiting() > 0

    def _waiting(self) -> int:
        if self.boot.spec["protocol"] in SILENT_PROTOCOLS and not self.boot.spec["raw"]:
            return 0
        return sum(port.outlet.unclaimed() for port in self.hub.contexts.values())

    def _unsent(self) -> int:
        return self.hub.unsent() + self._waiting()

    async def _shut(self, patience: float) -> None:
        """Part from every peer, as its transport does it, and end."""
        pipes = list(self.hub.pipes.values())
        for pipe in pipes:
            self.hub.leave(pipe)
        await asyncio.gather(*(_part(self.loop, pipe.link, patience) for pipe in pipes), return_exceptions=True)
        if not self.ended.done():
            self.ended.set_result(None)

    def finish(self) -> None:
        """Leave nothing half done: pending tasks end with the loop."""
        for task in list(self.control.tasks):
            task.cancel()


async def _part(loop: asyncio.AbstractEventLoop, link: Link, patience: float) -> None:
    parting = loop.create_task(link.part(loop))  # wait_for() would not even begin it where there is no patience at all
    await asyncio.wait([parting], timeout=patience)
    parting.cancel()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await parting

"""`spworkers bench`: mangos' performance commands, by their names and with their lines of output.

`local_…` listens and `remote_…` dials; both are told the same size and count, and end when so many messages have
passed.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import click

from spworkers.cli.failures import fail, told
from spworkers.cli.kinds import Seconds, whole
from spworkers.errors import ConnRefusedError, RecvTimeoutError, SendTimeoutError
from spworkers.socket import Socket
from spworkers.sockets import Pair, Rep, Req

__all__ = ["bench"]


# --- what the ends do


def _echo(sock: Socket, size: int, count: int) -> None:
    """Send back what comes; the first message may take as long as it likes."""
    sock.send(sock.recv(math.inf))
    for _ in range(count - 1):
        sock.send(sock.recv())


def _latency(sock: Socket, size: int, count: int) -> None:
    seconds = _round_trips(sock, size, count)
    click.echo(f"average latency: {seconds * 1e6 / (2 * count):.3f} [us]")


def _request_latency(sock: Socket, size: int, count: int) -> None:
    seconds = _round_trips(sock, size, count)
    click.echo(f"average RTT: {seconds * 1e6 / count:.3f} [us]")


def _round_trips(sock: Socket, size: int, count: int) -> float:
    """Make them, print how many and of what, and return how long it took."""
    body = bytes(size)
    begin = time.perf_counter()
    for _ in range(count):
        sock.send(body)
        if len(sock.recv()) != size:
            fail(f"a message of another size than {size} came back; that is no local end of ours")
    seconds = time.perf_counter() - begin
    click.echo(f"message size: {size} [B]")
    click.echo(f"round trip count: {count}")
    return seconds


def _pour(sock: Socket, size: int, count: int) -> None:
    """Send them all, after an empty message which says that it begins."""
    body = bytes(size)
    sock.send(b"")
    for _ in range(count):
        sock.send(body)


def _throughput(sock: Socket, size: int, count: int) -> None:
    """Receive them all, and print how fast they came."""
    if sock.recv(math.inf):
        fail("the first message is not empty; what sends here is no remote_thr")
    begin = time.perf_counter()
    for _ in range(count):
        if len(sock.recv()) != size:
            fail(f"a message of another size than {size} came; give both ends the same size")
    seconds = max(time.perf_counter() - begin, 1e-9)
    click.echo(f"message size: {size} [B]")
    click.echo(f"message count: {count}")
    click.echo(f"throughput: {count / seconds:.0f} [msg/s]")
    click.echo(f"throughput: {count * size * 8 / seconds / 1e6:.3f} [Mb/s]")


class _Role(NamedTuple):
    """One end: its socket and what it does with it."""

    kind: type[Socket]
    play: Callable[[Socket, int, int], None]


_LOCAL: Final = {
    "lat": _Role(Pair, _echo),
    "reqlat": _Role(Rep, _echo),
    "thr": _Role(Pair, _throughput),
}
_REMOTE: Final = {
    "lat": _Role(Pair, _latency),
    "reqlat": _Role(Req, _request_latency),
    "thr": _Role(Pair, _pour),
}


@contextlib.contextmanager
def _opened(role: _Role, timeout: float, *, listen: str | None = None, dial: str | None = None) -> Iterator[Socket]:
    options: Any = {"recv_deadline": timeout, "send_deadline": timeout, "linger": timeout}
    with role.kind(listen=listen, dial=dial, max_rcv_size=0, **options) as sock:  # any size may be measured
        try:
            yield sock
        except BaseException:  # Ctrl-C, say: nobody is left who would want what is on its way
            sock.close(linger=0)
            raise


def _listen(what: str, address: str, size: int, count: int, timeout: float) -> None:
    role = _LOCAL[what]
    with _opened(role, timeout, listen=address) as sock:
        role.play(sock, size, count)


def _dial(what: str, address: str, size: int, count: int, timeout: float) -> None:
    role = _REMOTE[what]
    try:
        with _opened(role, timeout, dial=address) as sock:
            role.play(sock, size, count)
    except ConnRefusedError:
        fail(f"nobody listens at {address}; start local_{what} there first")


def _both(what: str, size: int, count: int, timeout: float) -> None:
    local, remote = _LOCAL[what], _REMOTE[what]
    address = f"inproc://bench-{what}"
    with (
        ThreadPoolExecutor(1) as other,  # first, so that it ends last: a socket that is closed ends what waits there
        _opened(local, timeout, listen=address) as listening,
        _opened(remote, timeout, dial=address) as dialing,
    ):
        done = other.submit(local.play, listening, size, count)
        remote.play(dialing, size, count)
        done.result()


# --- the commands


class _Names(click.Group):
    """A group that knows the original's second names, too."""

    _MEANS: Final = {
        "latency_server": "local_lat",
        "latency_client": "remote_lat",
        "througput_server": "local_thr",  # the original's spelling
        "throughput_server": "local_thr",
        "throughput_client": "remote_thr",
    }

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self._MEANS.get(cmd_name, cmd_name))


@click.group(cls=_Names)
def bench() -> None:
    """Measure latency and throughput, as mangos' perf commands do.

    Start the local end, then the remote one with the same address, size (bytes) and count; both end by themselves.
    """


_SUMMARIES: Final = {
    "local_lat": "Send back what comes (PAIR); the other end of remote_lat.",
    "remote_lat": "Time round trips (PAIR); half of one is the latency.",
    "local_reqlat": "Answer requests with themselves (REP); the other end of remote_reqlat.",
    "remote_reqlat": "Time requests and their replies (REQ).",
    "local_thr": "Time messages as they come (PAIR).",
    "remote_thr": "Send messages (PAIR); the other end of local_thr.",
    "inproc_lat": "local_lat and remote_lat in one process, over inproc.",
    "inproc_reqlat": "local_reqlat and remote_reqlat in one process, over inproc.",
    "inproc_thr": "local_thr and remote_thr in one process, over inproc.",
}
_PLACES: Final[dict[str, Callable[..., None]]] = {"local": _listen, "remote": _dial, "inproc": _both}


def _command(name: str, summary: str) -> click.Command:
    place, _, what = name.partition("_")

    def run(timeout: float, **given: Any) -> None:
        with told():
            try:
                _PLACES[place](what, timeout=timeout, **given)
            except (RecvTimeoutError, SendTimeoutError):
                fail(f"nothing moved for {timeout:g} s; do both ends run, with the same size and count?")

    address = [] if place == "inproc" else [click.Argument(["address"])]
    numbers = [click.Argument(["size"], type=whole(0)), click.Argument(["count"], type=whole(1))]
    patience = click.Option(
        ["--timeout"],
        type=Seconds(more=True),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="Give up when nothing moves for so long, once it has begun.",
    )
    return click.Command(name, callback=run, params=[*address, *numbers, patience], help=summary)


for _name, _summary in _SUMMARIES.items():
    bench.add_command(_command(_name, _summary))

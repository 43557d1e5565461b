"""What a server counts, as Prometheus reads it (text format 0.0.4), and a small HTTP server that shows it.

GET /metrics    the counters
GET /health     200 when a worker answers within a second, else 503
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from spworkers.closing import Closing
from spworkers.errors import AddrInUseError, BadValueError
from spworkers.workers.measures import BOUNDS, Measure

__all__ = ["CONTENT_TYPE", "Measured", "MetricsServer", "exposition", "host_and_port"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_SOCKET: Final = {
    "sent": ("spworkers_messages_sent_total", "counter", "Messages sent."),
    "received": ("spworkers_messages_received_total", "counter", "Messages received."),
    "sent_bytes": ("spworkers_sent_bytes_total", "counter", "Bytes of messages sent."),
    "received_bytes": ("spworkers_received_bytes_total", "counter", "Bytes of messages received."),
    "pipes": ("spworkers_connections", "gauge", "Connections now."),
    "waiting": ("spworkers_backlog", "gauge", "Requests that wait for a worker now."),
    "streams": ("spworkers_streams", "gauge", "Streams that are open now."),
    "generation": ("spworkers_io_process_starts_total", "counter", "Starts of the I/O process."),
}


class Measured(NamedTuple):
    """What is counted of one socket and its workers.

    Attributes:
        part: the respondent, consumer or subscriber whose it is, for the label `part`; empty: the handlers.
        stats: as `ContextPool.stats` gives them.
        measures: of each handler.
    """

    part: str
    stats: Mapping[str, Any]
    measures: Mapping[str, Measure]


def exposition(app: str, measured: Sequence[Measured]) -> str:
    """Everything in Prometheus' text format.

    Args:
        app: the value of the label `app`.
        measured: of each of its sockets.
    """
    page = _Page(app)
    of = [({"part": each.part} if each.part else {}, each) for each in measured]
    for name, (metric, kind, doc) in _SOCKET.items():
        page.add(metric, kind, doc, [(part, each.stats[name]) for part, each in of if name in each.stats])
    drops = [
        ({**part, "cause": cause}, number) for part, each in of for cause, number in each.stats.get("drops", {}).items()
    ]
    page.add("spworkers_drops_total", "counter", "Messages and requests dropped or turned away, by cause.", drops)
    named = [
        ({**part, "worker": worker["name"]}, worker) for part, each in of for worker in each.stats.get("workers", [])
    ]
    page.add(
        "spworkers_worker_answers_total",
        "counter",
        "Requests answered.",
        [(labels, worker["answered"]) for labels, worker in named],
    )
    page.add(
        "spworkers_worker_errors_total",
        "counter",
        "Requests answered with an error.",
        [(labels, worker["failed"]) for labels, worker in named],
    )
    page.add(
        "spworkers_worker_busy",
        "gauge",
        "Whether the worker has a request in hand.",
        [(labels, int(worker["state"] == "busy")) for labels, worker in named],
    )
    handlers = [({**part, "handler": name}, measure) for part, each in of for name, measure in each.measures.items()]
    page.add(
        "spworkers_handler_calls_total",
        "counter",
        "Calls of the handler.",
        [(labels, measure.calls) for labels, measure in handlers],
    )
    page.add(
        "spworkers_handler_errors_total",
        "counter",
        "Calls whose handler raised.",
        [(labels, measure.failed) for labels, measure in handlers],
    )
    page.histogram("spworkers_handler_seconds", "Duration of calls.", handlers)
    return page.text()


class _Page:
    def __init__(self, app: str) -> None:
        self._app = app
        self._lines: list[str] = []

    def add(self, metric: str, kind: str, doc: str, values: list[tuple[dict[str, str], float]]) -> None:
        if values:
            self._head(metric, kind, doc)
            self._lines += [f"{metric}{self._labels(labels)} {_number(value)}" for labels, value in values]

    def _head(self, metric: str, kind: str, doc: str) -> None:
        self._lines += [f"# HELP {metric} {doc}", f"# TYPE {metric} {kind}"]

    def histogram(self, metric: str, doc: str, measures: Sequence[tuple[dict[str, str], Measure]]) -> None:
        if not measures:
            return
        self._head(metric, "histogram", doc)
        for names, measure in measures:
            total = 0
            for bound, number in zip((*BOUNDS, math.inf), measure.buckets, strict=True):
                total += number
                labels = self._labels({**names, "le": "+Inf" if bound == math.inf else f"{bound:g}"})
                self._lines.append(f"{metric}_bucket{labels} {total}")
            labels = self._labels(names)
            self._lines.append(f"{metric}_sum{labels} {_number(measure.seconds)}")
            self._lines.append(f"{metric}_count{labels} {total}")

    def _labels(self, labels: Mapping[str, str]) -> str:
        every = {"app": self._app, **labels}
        return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in every.items()) + "}"

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))


class MetricsServer(Closing):
    """Shows metrics over HTTP, from a thread of this process.

    Args:
        address: `"127.0.0.1:9090"`, `":9090"` for every interface, `"[::1]:9090"`; port 0: any free one.
        metrics: gives the text.
        healthy: whether a worker answers; it may take a second.

    Raises:
        BadValueError: that is no address.
        AddrInUseError: somebody listens there already.
    """

    def __init__(self, address: str, metrics: Callable[[], str], healthy: Callable[[], bool]) -> None:
        host, port = host_and_port(address)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10.0  # seconds without a byte: whoever connects and says nothing does not keep a thread

            def do_GET(self) -> None:  # http.server's name
                if self.path.partition("?")[0] == "/metrics":
                    self._answer(200, metrics(), CONTENT_TYPE)
                elif self.path.partition("?")[0] == "/health":
                    well = healthy()
                    self._answer(200 if well else 503, "ok\n" if well else "no worker answers\n", "text/plain")
                else:
                    self._answer(404, "there are /metrics and /health\n", "text/plain")

            def _answer(self, status: int, text: str, kind: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # http.server's name
                """Nobody wants a line for each scrape."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise AddrInUseError(f"metrics at {address}: {error.strerror}") from error
        self._server.daemon_threads = True
        bound = self._server.server_address
        self.address = f"{bound[0]!s}:{bound[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="spworkers-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __repr__(self) -> str:
        return f"<MetricsServer http://{self.address}/metrics>"


def host_and_port(address: Any) -> tuple[str, int]:
    """The parts of an address of a `MetricsServer`.

    Raises:
        BadValueError: that is none.
    """
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise BadValueError(f"metrics wants an address like 127.0.0.1:9090, not {address!r:.80}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  # as the user wrote it

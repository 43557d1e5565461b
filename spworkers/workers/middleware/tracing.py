"""OpenTelemetry: a span for every request.

It needs the extra `spworkers[otel]`, and an SDK that the program sets up.
"""

from __future__ import annotations

from typing import Any

from spworkers.errors import UsageError
from spworkers.workers.middleware.base import Middleware, WorkerControl
from spworkers.workers.requestinfo import RequestInfo

__all__ = ["Tracing"]


class Tracing(Middleware):
    """Spans named after handlers, with the conventions of OpenTelemetry for RPC servers.

    ```python
    app = sp.App("calc", middleware=[Tracing()])     # on_start sets up the tracer provider
    ```

    Args:
        provider: a TracerProvider; None: the global one, when the worker has started.

    Where opentelemetry is not installed a worker logs that at its start, and answers each request with UsageError.
    """

    def __init__(self, provider: Any = None) -> None:
        self._provider = provider
        self._tracer: Any = None

    def worker_started(self, worker: WorkerControl) -> None:
        self._set_up()

    def _set_up(self) -> Any:
        if self._tracer is None:
            try:
                from opentelemetry import trace
            except ImportError as error:
                raise UsageError("Tracing needs OpenTelemetry: pip install 'spworkers[otel]'") from error
            self._tracer = trace.get_tracer("spworkers", tracer_provider=self._provider)
        return self._tracer

    def before(self, request: RequestInfo) -> None:
        tracer = self._set_up()
        from opentelemetry import context, trace

        attributes = {"rpc.system": "spworkers", "rpc.method": request.handler, "spworkers.request": request.hex_id}
        span = tracer.start_span(request.handler, kind=trace.SpanKind.SERVER, attributes=attributes)
        request.notes["span"] = span
        request.notes["span_token"] = context.attach(trace.set_span_in_context(span))

    def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
        span = request.notes.pop("span", None)
        if span is None:
            return
        from opentelemetry import context, trace

        context.detach(request.notes.pop("span_token"))
        span.set_attribute("spworkers.attempts", request.attempt)
        if error is not None:
            span.record_exception(error)
            span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        span.end()

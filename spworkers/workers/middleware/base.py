"""The hooks on which everything hangs that goes on around handlers: retries, limits, logs, metrics, traces.

parent     serving ──▶ (the workers start)
worker     worker_started ──▶ before ──▶ handler ──▶ after ──▶ settled ──▶ … ──▶ worker_stopping
                                ▲           │ raises
                                └── retry ◀─┘
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from spworkers.workers.requestinfo import RequestInfo

if TYPE_CHECKING:
    from spworkers.workers.app import App
    from spworkers.workers.handler import Handler

__all__ = ["Middleware", "WorkerControl"]


class WorkerControl(Protocol):
    """What a hook may ask of the worker that it runs in."""

    name: str

    def retire(self, reason: str) -> None:
        """Finish what is at hand, and be replaced by a new process; the reason is logged."""


class Middleware:
    """Hooks around the handlers of an App. A subclass overrides those that it needs; the others cost nothing.

    ```python
    class Slow(sp.Middleware):
        def after(self, request, error, seconds):
            if seconds > 1:
                log.warning("%s took %.1f s", request.handler, seconds)

    app = sp.App("calc", middleware=[Slow()])
    ```

    Hooks run in the worker, in the thread or task that runs the handler; `serving` alone runs in the parent. An
    exception of `before` is answered as if the handler had raised it, and the handler does not run; one of `serving`
    comes out of `serve`; one of any other hook is logged, and all goes on as if the hook had returned None.
    """

    def serving(self, app: App, options: dict[str, Any]) -> None:
        """The app is about to be served; `options` are the dispatcher's (docs/handlers.md), and may be changed.

        What it raises ends the start, and comes out of `serve` as it is. If it leaves an option that there is not, or a
        value that is none, `serve` raises BadOptionError or BadValueError, which names the hook.
        """

    def worker_started(self, worker: WorkerControl) -> None:
        """A worker is ready, its `on_start` functions have run."""

    def worker_stopping(self, worker: WorkerControl) -> None:
        """A worker ends in order; its `on_stop` functions come next."""

    def before(self, request: RequestInfo) -> None:
        """A handler is about to run; raise to refuse."""

    def retry(self, request: RequestInfo, error: BaseException, handler: Handler[..., Any]) -> float | None:
        """A handler raised. Seconds after which it shall run again; None: it shall not, as far as this hook goes.

        It is not asked when a generator raises after its first item.
        Any other answer is logged, and counts as None.
        """
        return None

    def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
        """A handler has returned, or raised this; it took so long, all attempts included.

        Of a generator this is when its stream ends, however long its reader took; None: also if nobody wanted more of
        it, or waited for its first part any longer. Where another handler's call was given up while it ran, the error
        is `spworkers.workers.stops.Stopped`.
        """

    def settled(self, worker: WorkerControl) -> None:
        """An answer was sent: the moment for `worker.retire`."""

"""A client of an app in this very process: for tests of handlers, without workers, sockets or waiting."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from spworkers.errors import ClosedError
from spworkers.workers.answer import Reply
from spworkers.workers.app import App
from spworkers.workers.caller import Caller
from spworkers.workers.futures import CallFuture
from spworkers.workers.runner import Runner
from spworkers.workers.state import State

__all__ = ["LocalClient"]


class LocalClient(Caller):
    """What `App.client()` gives.

    The handlers run in the caller's thread (async ones, called with `call`, in an event loop beside it); `submit` runs
    them before it returns. A timeout travels with the call as always, and stops nothing: there is no worker to kill.
    """

    def __init__(self, app: App) -> None:
        super().__init__()
        self._runner = Runner(app)
        self._runner.local = True
        self._runner.start()
        self._closed = False

    @property
    def state(self) -> State:
        """What `on_start` prepared; a test may put its own there."""
        return self._runner.state

    def _exchange(self, payload: bytes, deadline: float, what: str, call_id: int = 0, pipe: int = 0) -> Reply:
        self._check_open(what)
        return Reply(self._runner.answer(payload, serial=call_id).body)

    async def _aexchange(self, payload: bytes, deadline: float, what: str, call_id: int = 0, pipe: int = 0) -> Reply:
        self._check_open(what)
        return Reply((await self._runner.aanswer(payload, serial=call_id)).body)

    def _submit(
        self, payload: bytes, deadline: float, what: str, read: Callable[[Reply], Any], call_id: int
    ) -> Future[Any]:
        future = CallFuture(what)
        try:
            future.set_result(read(self._exchange(payload, deadline, what, call_id)))
        except Exception as error:
            future.set_exception(error)
        return future

    def _give_up_stream(self, call_id: int, pipe: int) -> None:
        if not self._closed:
            self._runner.close_streams(call_id)

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise ClosedError(f"{what}(): the LocalClient of {self._runner.app.name} is closed")

    def close(self) -> None:
        """Run the `on_stop` functions; a second time, nothing."""
        if not self._closed:
            self._closed = True
            self._runner.stop()

    def __repr__(self) -> str:
        return f"<LocalClient of {self._runner.app!r}{', closed' if self._closed else ''}>"

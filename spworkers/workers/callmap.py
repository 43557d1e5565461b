"""What `Client.map` gives: an iterator over the results of many calls."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from spworkers.errors import ProtoStateError
from spworkers.workers.manycalls import END, Asker, ManyCalls
from spworkers.workers.quickcalls import Opened, Unanswered
from spworkers.workers.slots import NoPlace

if TYPE_CHECKING:
    from typing_extensions import Self

    from spworkers.workers.client import Client

__all__ = ["CallMap"]


class CallMap:
    """The results of one `Client.map`, in the order of the arguments.

    `close()`, the end of a `with` block and of the last reference give up the calls that have no answer yet. Threads
    may share it: each takes the next result.
    """

    def __init__(self, client: Client, many: ManyCalls, name: str, timeout: Any, return_exceptions: bool) -> None:
        self._client = client
        self._many = many
        self._asker = Asker(many)
        self._name = name
        self._timeout = timeout
        self._return_exceptions = return_exceptions
        self._turn = threading.Lock()
        self._thread = 0  # whose turn it is
        self._over = False
        many.fill()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._over:
            raise StopIteration
        me = threading.get_ident()
        if self._thread == me:
            raise ProtoStateError(
                f"{self._name}(): the next result of this map was asked for in the middle of asking for it: by its own"
                " items, a signal's handler or a finalizer"
            )
        client = self._client
        if client._req._port.closed:  # in a forked child a thread that is not there may have the turn
            client._check_usable(self._name)
        try:
            with self._turn:
                self._thread = me
                try:
                    result = self._many.next()
                finally:
                    self._thread = 0
            if result is not END and (client._results or type(result) is Opened):
                result = client._made(result, self._name, self._timeout)
        except NoPlace:
            self.close()
            raise client._no_slot(self._name) from None
        except Unanswered as unanswered:
            error = client._explained(unanswered.error, self._name, unanswered.size, self._many.patience)
        except Exception as raised:
            error = raised
        except BaseException:  # Ctrl-C: nobody waits for the rest
            self.close()
            raise
        else:
            if result is END:
                self._over = True
                raise self._many.problem or StopIteration
            return result
        if self._return_exceptions:
            return error
        self.close()
        try:
            raise error
        finally:
            del error  # which has this frame in its traceback

    def close(self) -> None:
        """Give up what has no answer yet; there are no more results. A second time, nothing happens."""
        self._over = True
        self._many.give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "over" if self._over else f"{self._many.away} calls on their way"
        return f"<CallMap {self._name} of {self._client!r}: {state}>"

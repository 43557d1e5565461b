"""What follows the death of a supervisor: who has to be set up again by the next one, and the thread that sees to it.

Each is called once for each supervisor. If that one dies in the middle of a round, whoever was to be set up there is
left for the next round, where everybody is called: what is set up twice at one supervisor would be so with descriptors
that the first time did not know.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from spworkers.channel import Channel
from spworkers.errors import ClosedError, SPError, SupervisorError
from spworkers.lean import lean_record
from spworkers.supervisor.control import Control
from spworkers.supervisor.life import Life

__all__ = ["Recovery"]


@lean_record
class _Survivor:
    """Who is called after a death.

    Args:
        callback: what is called.
        home: the channel of the supervisor where it is set up; any other one than the present has died. None: nowhere.
    """

    callback: Callable[[], None]
    home: Channel | None


class Recovery:
    """Calls who outlives supervisors, and sends again what dead ones have not answered.

    Args:
        control: where their channels are registered.
        lock: held by who calls anything here but `here`.
        present: the supervisor that there is now; None: none, nor will be for the moment.
    """

    def __init__(self, control: Control, lock: threading.RLock, present: Callable[[], Life | None]) -> None:
        self._control = control
        self._lock = lock
        self._present = present
        self._survivors: list[_Survivor] = []
        self._lost: list[Life] = []  # dead ones, whose unanswered requests are to be sent again
        self._thread: threading.Thread | None = None
        self._at: Life | None = None  # where the thread is at work

    @property
    def here(self) -> Life | None:
        """For who is called by a round: whom it may ask. Elsewhere None."""
        return self._at if threading.current_thread() is self._thread else None

    def add(self, callback: Callable[[], None], home: Channel | None) -> None:
        """Call it from now on; see `_Survivor`."""
        self._survivors.append(_Survivor(callback, home))

    def remove(self, callback: Callable[[], None]) -> None:
        """Do not call it any more; nothing happens if it is unknown."""
        self._survivors = [each for each in self._survivors if each.callback != callback]

    @property
    def wanted(self) -> bool:
        """There is somebody to be set up again."""
        return bool(self._survivors)

    def lose(self, life: Life) -> None:
        """A supervisor has died."""
        self._lost.append(life)

    def give_up(self, problem: SPError) -> None:
        """No other one is to be had: whoever waits for an answer gets this."""
        lost, self._lost = self._lost, []
        for life in lost:
            self._control.abandon(life.channel, problem)

    def begin(self) -> SPError | None:
        """Start the thread, if there is something to do; or say why that cannot be."""
        if self._thread is not None or not self._is_due():
            return None
        self._thread = threading.Thread(target=self._run, name="spworkers-restart", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system has no room; or the interpreter exits
            self._thread = None
            if not threading.main_thread().is_alive():
                return None
            return SupervisorError(f"cannot set up again what the supervisor's death ended: {error}")
        return None

    def _is_due(self) -> bool:
        life = self._present()
        return life is not None and bool(self._lost or any(each.home is not life.channel for each in self._survivors))

    def _run(self) -> None:
        while True:
            with self._lock:
                life = self._at = self._present()
                if life is None or not self._is_due():
                    self._thread = self._at = None
                    return
                lost, self._lost = self._lost, []
                survivors = [each for each in self._survivors if each.home is not life.channel]
            for each in survivors:
                each.home = life.channel
                try:
                    each.callback()
                except Exception as error:
                    if self._present() is life:  # else all that is to be said is that it has died, too
                        logging.getLogger("spworkers.supervisor").error(
                            "after a restart of the supervisor: %s: %s", type(error).__name__, error
                        )
            for dead in lost:
                with contextlib.suppress(ClosedError):  # the interpreter exits
                    self._control.transfer(dead.channel, life.channel)

"""What macat does once it is connected: one of four loops, by the protocol and by whether there is data."""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from spworkers.cli.macat.formats import FORMATS
from spworkers.cli.macat.mistakes import Mistake
from spworkers.cli.macat.options import Settings
from spworkers.errors import ProtoStateError, RecvTimeoutError, SPError
from spworkers.message import Message
from spworkers.socket import Socket

__all__ = ["Talk", "put"]

_RECEIVE_ONLY: Final = ("pull", "sub")
_SEND_ONLY: Final = ("push", "pub")
_ASK: Final = ("req", "surveyor")
_ANSWER: Final = ("rep", "respondent")

_FIRST_ID: Final = 0x8000_0001
_HOPLESS: Final = bytes(4)


class Talk:
    """The conversation of one socket.

    Args:
        socket: connected, and subscribed.
        settings: what the command line said.
    """

    def __init__(self, socket: Socket, settings: Settings) -> None:
        self._socket = socket
        self._settings = settings
        self._print = FORMATS[settings.format or "no"]
        self._recv_timeout = _limit(settings.recv_timeout)
        self._send_timeout = _limit(settings.send_timeout)
        self._ids = itertools.count(_FIRST_ID)

    def run(self) -> None:
        """Send and receive until there is nothing more to do.

        Raises:
            Mistake: nothing to send, or a message could not be sent or received.
        """
        self._loop()()

    def _loop(self) -> Callable[[], None]:
        protocol, data = self._settings.protocol, self._settings.data
        if protocol in _RECEIVE_ONLY:
            return self._receive
        if protocol in _SEND_ONLY:
            return self._send
        if protocol in _ANSWER:
            return self._receive if data is None else self._reply
        return self._exchange if protocol in _ASK or data is not None else self._receive

    # --- the loops

    def _receive(self) -> None:
        """Until nothing comes for --recv-timeout, the survey is over or the reply is there."""
        while self._show(self._take(self._recv_timeout)):
            pass

    def _send(self) -> None:
        if self._settings.data is None:
            raise Mistake("no data to send", "give --data or --file")
        for pause in self._turns():
            self._put(self._settings.data)
            time.sleep(max(pause, 0.0))

    def _exchange(self) -> None:
        """Once, then receive; or at each interval, with one message received in between."""
        data = self._settings.data or b""
        interval = self._settings.interval
        if interval is None:
            for _ in self._turns():
                self._put(data)
                break
            else:
                return
            self._receive()
            return
        for pause in self._turns():
            begin = time.monotonic()
            self._put(data)
            self._show(self._take(min(self._recv_timeout, max(interval, 0.0))))
            time.sleep(max(pause - (time.monotonic() - begin), 0.0))

    def _reply(self) -> None:
        assert self._settings.data is not None
        while message := self._take(self._recv_timeout):
            self._show(message)
            self._put(self._settings.data, bytes(message.header) if self._settings.raw_mode else None)

    def _turns(self) -> Iterator[float]:
        """One item for each message to send: how long to wait after it."""
        interval = self._settings.interval
        count = self._settings.count
        if count is None:
            count = 1 if interval is None else -1
        while count:
            count -= count > 0
            yield (interval or 0.0) if count else 0.0

    # --- single messages

    def _put(self, body: bytes, header: bytes | None = None) -> None:
        try:
            if self._settings.raw_mode:
                self._socket.send_msg(Message(body, self._header() if header is None else header), self._send_timeout)
            else:
                self._socket.send(body, self._send_timeout)
        except SPError as error:
            raise Mistake(f"send: {error.summary}", str(error)) from error

    def _take(self, timeout: float) -> Message | None:
        """The next message; None if there is an end of it."""
        try:
            return self._socket.recv_msg(timeout)
        except (RecvTimeoutError, ProtoStateError):
            return None
        except SPError as error:
            raise Mistake(f"recv: {error.summary}", str(error)) from error

    def _show(self, message: Message | None) -> bool:
        if message is None:
            return False
        body = bytes(message.body)
        text = self._print(bytes(message.header) + body if self._settings.raw_mode else body)
        if text:
            put(text)
        return True

    def _header(self) -> bytes:
        """What a cooked socket would have put in front, as a raw one leaves that to its user."""
        if self._settings.protocol in _ASK:
            return (next(self._ids) % (1 << 32) | 1 << 31).to_bytes(4, "big")
        return _HOPLESS if self._settings.protocol in ("pair1", "star") else b""


def put(text: bytes) -> None:
    """Write to standard output, at once.

    Raises:
        Mistake: it cannot be written there.
        BrokenPipeError: who read it has gone.
    """
    if sys.stdout is None:
        raise Mistake("write: standard output is closed")
    try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is in the buffer would be tried again, and complained of, when the interpreter exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Mistake(f"write: {error.strerror}") from None


def _limit(seconds: float | None) -> float:
    """A deadline as the library has it; 0 and less are none, as in nanocat."""
    return seconds if seconds is not None and seconds > 0 else math.inf

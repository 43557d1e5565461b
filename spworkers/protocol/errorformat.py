"""What a dispatcher has to know of requests, and cannot know: their format is the business of workers/."""

from __future__ import annotations

from typing import Any, Final, Protocol

from spworkers.protocol.machine import Obituary

__all__ = ["DRAINING", "FULL", "LOST", "NO_STREAM", "ErrorFormat", "died", "overdue", "quarantined"]


class ErrorFormat(Protocol):
    """The format of requests and of the answers that are errors. A request's body begins at `header_length`."""

    def handler_of(self, payload: bytes, header_length: int) -> str:
        """Whose the request is, for limits of its own: a name in LIMITS, or any other string."""

    def content_at(self, payload: bytes, header_length: int) -> int:
        """Where the part begins that two requests for the same work have in common: behind a request's number, say."""

    def error_reply(self, payload: bytes, header_length: int, kind: str, detail: dict[str, Any]) -> bytes | None:
        """The body of an error's answer.

        Args:
            kind: `"busy"`, `"died"`, `"timeout"`, `"quarantined"` or `"lost"`.
            detail: `message`, for a person; `deaths`, how many workers died of it; `seconds`, the time that it was
                allowed to run.

        Returns:
            The body; None: this request has no answer for such an error.
        """


FULL: Final[dict[str, Any]] = {"message": "the server has as many requests as its backlog holds"}
"""Why a request is turned away."""
DRAINING: Final[dict[str, Any]] = {"message": "the server takes no new requests, it is about to end"}
"""Why a request is turned away."""

LOST: Final[dict[str, Any]] = {"message": "the worker that made this stream is gone"}
"""Why a stream has no next part."""
NO_STREAM: Final[dict[str, Any]] = {
    "message": "there is no such stream here: its worker is gone, it has ended, was closed, or another server"
    " (behind a device?) has it"
}
"""Why a stream has no next part."""


def died(deaths: int, obituary: Obituary) -> dict[str, Any]:
    """Its workers died; the last one so."""
    workers = "the worker" if deaths == 1 else f"{deaths} workers"
    how = f" ({obituary.reason})" if obituary.reason else ""
    detail: dict[str, Any] = {
        "message": f"{workers} that ran this request died{how}, and it may not be tried again",
        "deaths": deaths,
    }
    if obituary.pid:
        detail["pid"] = obituary.pid
    if obituary.status is not None:
        detail["status"] = obituary.status
    return detail


def overdue(deaths: int, seconds: float) -> dict[str, Any]:
    """It ran too long."""
    message = f"the request ran longer than {seconds:g} s, was stopped, and may not be tried again"
    return {"message": message, "deaths": deaths, "seconds": seconds}


def quarantined(deaths: int) -> dict[str, Any]:
    """It kills."""
    message = f"this request killed {deaths} workers in a row and is not handed out any more"
    return {"message": message, "deaths": deaths}

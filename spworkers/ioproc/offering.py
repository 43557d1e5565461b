"""What dialers and listeners have in common: they offer links to the hub, and name what went wrong."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from spworkers.errors import InternalError, SPError, from_os_error
from spworkers.transport.base import Link

_log = logging.getLogger(__name__)

Verdict = bool | Awaitable[bool]
"""What the hub says to a link. True: it is a pipe now, and the hub's. False: refused, to be closed. The hub may take
its time (a hook of the user's has to be asked) and give something to await."""

Count = Callable[[str], object]
"""Counts an event by its cause."""

_Driver = TypeVar("_Driver")


def not_counted(cause: str) -> None:
    """A `Count` that does not."""


async def offer(link: Link, driver: _Driver, on_link: Callable[[Link, _Driver], Verdict]) -> bool:
    """Offer a link to the hub, and close it if the hub does not want it.

    A hub that raises, or is cancelled, has not accepted; this is logged, for it is a mistake of ours.

    Returns:
        Whether it was accepted.
    """
    accepted = False
    try:
        verdict = on_link(link, driver)
        accepted = bool(await verdict if inspect.isawaitable(verdict) else verdict)
    except Exception:
        _log.exception("%r was refused, because attaching it failed", link)
    finally:
        if not accepted:
            link.refuse()
    return accepted


def as_ours(error: Exception, doing: str) -> SPError:
    """An error of our tree for whatever a transport raised; one of a third party's may raise anything.

    Args:
        error: what it raised.
        doing: what was being done, beginning with the verb.
    """
    if isinstance(error, SPError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, doing)
    ours = InternalError(f"{doing}: the transport failed with {type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours

"""Raw RESPONDENT: what raw REP is for requests, this is for surveys; nothing differs, TTL included (B16)."""

from __future__ import annotations

from spworkers.protocol.xrep import XRep

__all__ = ["XRespondent"]


class XRespondent(XRep):
    """The machine of a raw RESPONDENT socket."""

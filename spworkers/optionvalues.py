"""The values that one handle's options have: its own, else those it inherits, else the defaults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spworkers.errors import BadOptionError
from spworkers.options import OPTIONS, Place, as_wire, kept_as, lookup, validate

__all__ = ["OptionValues"]


class OptionValues:
    """The options of one socket, context, dialer, listener or pipe.

    Args:
        place: whose they are.
        parent: whose values are inherited, now and later: the socket's by a context, dialer or listener; the
            dialer's or listener's by a pipe.
        given: names and canonical values to begin with, as `spworkers.options.keywords` makes them.
    """

    def __init__(self, place: Place, parent: OptionValues | None = None, given: Iterable[tuple[str, Any]] = ()) -> None:
        self.place = place
        self.parent = parent
        self._own: dict[str, Any] = {}
        for name, value in given:
            self.store(name, value)

    def set(self, name: str, value: Any) -> Any:
        """Check a value and keep it.

        Returns:
            The value in canonical form.

        Raises:
            BadOptionError: no such option here, or it cannot be set.
            BadValueError: the value is of the wrong type or out of range.
        """
        canonical = validate(name, value, self.place)
        self.store(name, canonical)
        return canonical

    def store(self, name: str, canonical: Any) -> None:
        """Keep a value that was checked already; also how what is read only (LOCAL-ADDR, RAW) gets its value."""
        name, canonical = kept_as(name, canonical)
        if not OPTIONS[name].gettable:
            return  # an order rather than a value: what it adds up to is not kept here
        if canonical is None:
            self._own.pop(name, None)
        else:
            self._own[name] = canonical

    def get(self, name: str) -> Any:
        """The value that holds here.

        Raises:
            BadOptionError: no such option here, nor where this inherits from, or it can only be set.
        """
        parent = self.parent
        try:
            option = lookup(name, self.place)
        except BadOptionError:
            # A dialer answers for its socket too, a pipe for what made it; a listener and a context do not.
            if parent is not None and self.place.kind in ("dialer", "pipe") and name in parent.readable():
                return parent.get(name)
            raise
        if name == "KEEPALIVE":
            return self.get("KEEPALIVETIME") >= 0
        if name in self._own:
            return self._own[name]
        if parent is not None and option.applies(parent.place):
            return parent.get(name)
        return option.default_at(self.place)

    def readable(self) -> frozenset[str]:
        """The names that `get` answers."""
        here = frozenset(o.name for o in OPTIONS.values() if o.gettable and o.applies(self.place))
        if self.parent is not None and self.place.kind in ("dialer", "pipe"):
            here |= self.parent.readable()
        return here

    def forget(self, name: str) -> None:
        """Go back to what is inherited."""
        self._own.pop("KEEPALIVETIME" if name == "KEEPALIVE" else name, None)

    def own(self) -> dict[str, Any]:
        """The values that were set here, without what is inherited: what another process needs to hold the same."""
        return {name: as_wire(value) for name, value in self._own.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._own

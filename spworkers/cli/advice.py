"""What errors say and advise, for those who have a command line and no keywords."""

from __future__ import annotations

from typing import Final

__all__ = ["for_commands"]

_FLAGS: Final = {
    "TLSConfig(cert=..., key=...)": "--cert FILE --key FILE",
    "TLSConfig(ca=...)": "--cacert FILE",
    "TLS-CONFIG is not set": "TLS needs certificates",
}


def for_commands(text: str) -> str:
    """The same, with flags in place of Python's arguments and of options."""
    for argument, flag in _FLAGS.items():
        text = text.replace(argument, flag)
    return text

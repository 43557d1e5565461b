"""What is said to mypyc in the source of a compiled module, and means nothing when that is interpreted."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_options):
        """Say nothing."""
        return lambda cls: cls

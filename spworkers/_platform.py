"""Which systems and Pythons this library runs on. It imports nothing of the library, so that it can be asked first."""

from __future__ import annotations

import sys

__all__ = ["check"]


def check() -> None:
    """Do nothing where the library can run.

    Raises:
        ImportError: with one sentence that says what is missing.
    """
    if sys.platform in ("win32", "cygwin", "emscripten", "wasi"):
        raise ImportError(
            f"spworkers does not run on {sys.platform}: it needs shared memory, descriptors passed between"
            " processes and fork, as Linux, macOS and the BSDs have them (on Windows, WSL has them)"
        )

"""Watches the user's source files, for `spworkers serve --reload`."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

__all__ = ["Reloader", "source_files"]

_LOOK: Final = 0.5  # seconds; a thousand files cost some 2 ms


def source_files(module: str) -> set[Path]:
    """The files that a change of makes new workers necessary.

    Those of every imported module that lies neither in the standard library nor among installed packages, and whatever
    else ends with .py in the folder of `module`.
    """
    foreign = [Path(path).resolve() for name, path in sysconfig.get_paths().items() if name != "data"]
    found = set()
    for each in list(sys.modules.values()):
        path = getattr(each, "__file__", None)
        if path and path.endswith(".py") and not _is_in(Path(path).resolve(), foreign):
            found.add(Path(path).resolve())
    home = getattr(sys.modules.get(module), "__file__", None)
    if home:
        found.update(Path(home).resolve().parent.glob("*.py"))
    return found


def _is_in(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders) or "site-packages" in path.parts


class Reloader:
    """A thread that looks whether files have changed.

    Args:
        files: gives those to look at.
        changed: called with one that has changed, is new, or is gone; once however many they are.
    """

    def __init__(self, files: Callable[[], Iterable[Path]], changed: Callable[[Path], None]) -> None:
        self._files = files
        self._changed = changed
        self._seen = self._look()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spworkers-reload", daemon=True)
        self._thread.start()

    def _look(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in self._files():
            try:
                facts = os.stat(path)
            except OSError:  # an editor is about to put another one in its place
                continue
            found[path] = (facts.st_mtime_ns, facts.st_size)
        return found

    def _run(self) -> None:
        while not self._over.wait(_LOOK):
            now = self._look()
            different = [path for path in {**self._seen, **now} if self._seen.get(path) != now.get(path)]
            self._seen = now
            if different:
                self._changed(min(different))

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

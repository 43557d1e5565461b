"""Bars, for a map and for a pipeline: rich's on a terminal or in a notebook, tqdm's where they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from spworkers.errors import BadValueError

__all__ = ["REDRAWN", "Bar", "Bars", "bars_of", "check_progress", "shown", "title_of", "total_of"]

REDRAWN: Final = 0.05
"""Seconds between two looks of a bar."""

_BY_TQDM: Final = ("tqdm", "notebook")


class Bar(Protocol):
    """One of them."""

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        """So many are done, of so many (None: nobody knows), and what else is to be said."""


class Bars(Protocol):
    """Some of them, one below the other."""

    def add(self, title: str, total: int | None) -> Bar:
        """One more."""

    def close(self) -> None:
        """They stay as they are."""


def check_progress(how: Any) -> None:
    """Raise BadValueError if no `progress=` can be this, or what it needs is not installed."""
    if not (how is None or isinstance(how, (bool, str))):
        raise BadValueError(f"progress is {how!r:.80}; it has to be True, 'tqdm', 'notebook', or a title")
    if how in _BY_TQDM:
        _tqdm_for(how)


def total_of(*sources: Any) -> int | None:
    """How many items there are until the shortest of them ends; None: one does not say."""
    try:
        return min(map(len, sources))
    except TypeError:
        return None


def title_of(how: Any, name: str) -> str:
    """What to write beside the bar: the title that was given, or the name."""
    return name if how is True or how in _BY_TQDM else str(how)


def bars_of(how: Any) -> Bars | None:
    """Bars of the kind that was asked for; None: nobody would see them.

    Args:
        how: True or a title: rich's; "tqdm"; "notebook": tqdm's for notebooks; False, None: none.

    Raises:
        BadValueError: tqdm is asked for and not installed.
    """
    if not how:
        return None
    if how in _BY_TQDM:
        return _TqdmBars(how)
    from rich.console import Console

    console = Console(stderr=True)
    return _RichBars(console) if console.is_terminal or console.is_jupyter else None


def shown(results: Iterator[Any], total: int | None, how: Any, name: str) -> Iterator[Any]:
    """The results, with a bar that moves as they are taken.

    Args:
        results: what is counted.
        total: how many there will be; None: nobody knows.
        how: see `bars_of`.
        name: the title, if `how` is none.

    Raises:
        BadValueError: tqdm is asked for and not installed.
    """
    bars = bars_of(how)
    return results if bars is None else _counted(results, total, bars, title_of(how, name))


def _counted(results: Iterator[Any], total: int | None, bars: Bars, title: str) -> Iterator[Any]:
    done = 0
    due = 0.0
    bar = bars.add(title, total)
    try:
        for result in results:
            yield result
            done += 1
            now = time.monotonic()
            if now >= due:
                bar.show(done, total)
                due = now + REDRAWN
    finally:
        bar.show(done, total)
        bars.close()


class _RichBars:
    def __init__(self, console: Any) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        texts = (TextColumn("{task.description}", markup=False), TextColumn("{task.fields[text]}", markup=False))
        columns = (texts[0], BarColumn(), MofNCompleteColumn(), texts[1], TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console)

    def add(self, title: str, total: int | None) -> Bar:
        """See `Bars`."""
        self._progress.start()  # with the first of them: who only makes a map and never takes its results sees none
        return _RichBar(self._progress, self._progress.add_task(title, total=total, text=""))

    def close(self) -> None:
        """See `Bars`."""
        self._progress.stop()


class _RichBar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        """See `Bar`."""
        self._progress.update(self._task, completed=done, total=total, text=text)


def _tqdm_for(how: str) -> Any:
    try:
        if how == "notebook":
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        raise BadValueError(f"progress={how!r} needs tqdm, which is not installed: pip install tqdm") from None
    return tqdm


class _TqdmBars:
    def __init__(self, how: str) -> None:
        self._tqdm = _tqdm_for(how)
        self._made: list[Any] = []

    def add(self, title: str, total: int | None) -> Bar:
        """See `Bars`."""
        made = self._tqdm(total=total, desc=title, position=len(self._made))
        self._made.append(made)
        return _TqdmBar(made)

    def close(self) -> None:
        """See `Bars`."""
        for made in self._made:
            made.close()


class _TqdmBar:
    def __init__(self, made: Any) -> None:
        self._made = made

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        """See `Bar`."""
        made = self._made
        made.total = total
        if text:
            made.set_postfix_str(text, refresh=False)
        made.update(done - made.n)
        if done == total:
            made.refresh()

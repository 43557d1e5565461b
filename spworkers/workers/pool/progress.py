"""A bar for a map: rich's on a terminal (stderr) or in a notebook, tqdm's where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spworkers.errors import BadValueError

__all__ = ["shown"]


def shown(results: Iterator[Any], total: int | None, how: Any, name: str) -> Iterator[Any]:
    """The results, with a bar that moves as they are taken.

    Args:
        results: what is counted.
        total: how many there will be; None: nobody knows.
        how: True: rich, titled with `name`; "tqdm"; "notebook": tqdm's for notebooks; another text: rich, so titled.
        name: of the function.

    Raises:
        BadValueError: tqdm is asked for and not installed.
    """
    if how in {"tqdm", "notebook"}:
        return _tqdm(results, total, how, name)
    return _rich(results, total, name if how is True else str(how))


def _rich(results: Iterator[Any], total: int | None, title: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        return results
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console)

    def counted() -> Iterator[Any]:
        with bar:
            task = bar.add_task(title, total=total)
            for result in results:
                yield result
                bar.advance(task)

    return counted()


def _tqdm(results: Iterator[Any], total: int | None, how: str, title: str) -> Iterator[Any]:
    try:
        if how == "notebook":
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
    except ImportError:
        raise BadValueError(f"progress={how!r} needs tqdm, which is not installed: pip install tqdm") from None
    bar: Iterator[Any] = iter(tqdm(results, total=total, desc=title))
    return bar

"""When a function is sent to the workers again: whenever what it refers to is another thing now."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

import spworkers as sp
from spworkers.workers.pool.functions import REMEMBERED, Functions

WAIT = 30.0

CELL = """
k = 3
def shifted(x): return x + 1
def scaled(x): return shifted(x) * k
class Scale:
    @staticmethod
    def of(x): return scaled(x)
    @property
    def own(self): return k
def by_class(x): return Scale.of(x)
def around():
    def inner(x): return scaled(x)
    return lambda x: inner(x)
closed = around()
def late(x): return undefined(x)
def alone(x): return abs(x) + len("four")
def nested(x): return [each * k for each in (x,)][0]
"""


@pytest.fixture
def notebook() -> dict[str, Any]:
    """A namespace as that of a notebook."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL, space)
    return space


@pytest.mark.parametrize("name", ["scaled", "by_class", "closed", "nested"])
@pytest.mark.parametrize("change", ["k = 4", "k = 5.5", "k = [6]", "del k"])
def test_another_value_of_a_global_is_seen(notebook: dict[str, Any], name: str, change: str) -> None:
    functions = Functions()
    first = functions.find(notebook[name])
    assert functions.find(notebook[name]) is first
    exec(change, notebook)
    second = functions.find(notebook[name])
    assert second.number != first.number
    assert functions.find(notebook[name]) is second
    assert functions.forgotten == [first.number]


@pytest.mark.parametrize("name", ["scaled", "by_class", "closed"])
def test_another_definition_is_seen(notebook: dict[str, Any], name: str) -> None:
    functions = Functions()
    first = functions.find(notebook[name])
    exec("def shifted(x): return x + 2", notebook)
    assert functions.find(notebook[name]).number != first.number


def test_a_lambda_of_a_module_goes_by_value_too(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = Functions()
    function = lambda x: x + WAIT  # noqa: E731
    first = functions.find(function)
    assert functions.find(function) is first
    monkeypatch.setattr(f"{__name__}.WAIT", 40.0)
    assert functions.find(function) is not first


def test_what_it_does_not_refer_to_is_no_matter(notebook: dict[str, Any]) -> None:
    functions = Functions()
    found = [functions.find(notebook[name]) for name in ("alone", "shifted")]
    exec("k = 4\nmore = 5", notebook)
    assert [functions.find(notebook[name]) for name in ("alone", "shifted")] == found
    assert functions.find(pow) is functions.find(pow)
    assert functions.find(gc.collect) is functions.find(gc.collect)


def test_many_changes_are_forgotten(notebook: dict[str, Any]) -> None:
    functions = Functions()
    for number in range(3 * REMEMBERED):
        notebook["k"] = f"number {number}"
        functions.find(notebook["scaled"])
    assert len(functions._by_key) == 1
    assert len(functions.forgotten) == 3 * REMEMBERED - 1


def test_what_a_global_was_is_not_kept(notebook: dict[str, Any]) -> None:
    class Big:
        """Somebody's data."""

        def __reduce__(self) -> Any:
            return int, ()

    functions = Functions()
    big = notebook["k"] = Big()
    gone = weakref.ref(big)
    first = functions.find(notebook["scaled"])
    assert functions.find(notebook["scaled"]) is first
    notebook["k"] = 3
    del big
    gc.collect()
    assert gone() is None
    assert functions.find(notebook["scaled"]) is not first


def test_workers_see_what_a_notebook_says_now(notebook: dict[str, Any]) -> None:
    with sp.Pool(2) as pool:

        def results() -> list[Any]:
            called = [pool.submit(notebook[name], 2).result(WAIT) for name in ("scaled", "by_class", "closed")]
            return called + list(pool.map(notebook["scaled"], [2] * 4, chunksize=1))

        assert results() == [9] * 7
        exec("k = 4", notebook)
        assert results() == [12] * 7
        exec("def shifted(x): return x + 2", notebook)
        assert results() == [16] * 7
        with pytest.raises(NameError):
            pool.submit(notebook["late"], 2).result(WAIT)
        exec("def undefined(x): return -x", notebook)
        assert pool.submit(notebook["late"], 2).result(WAIT) == -2

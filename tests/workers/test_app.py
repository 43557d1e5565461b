"""App and what its decorators make."""

from __future__ import annotations

import datetime
import functools
import inspect
import math
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cloudpickle
import pytest

from spworkers.errors import BadOptionError, BadValueError
from spworkers.workers.app import App
from spworkers.workers.handler import Handler

imported = App("imported")


@imported.handler
def shout(text: str) -> str:
    """Make it loud."""
    return text.upper()


@pytest.fixture
def app() -> App:
    return App("calc")


def test_a_handler_stays_the_function(app: App) -> None:
    @app.handler
    def add(a: int, b: int = 1) -> int:
        """Adds.

        Two numbers.
        """
        return a + b

    assert add(2, 3) == 5
    assert add(2) == 3
    assert add("a", "b") == "ab"  # type: ignore[arg-type]  # calling it is calling the function: nothing is checked
    assert add.__name__ == "add"
    assert add.__doc__ is not None
    assert str(inspect.signature(add)) == "(a: 'int', b: 'int' = 1) -> 'int'"
    assert add.doc == "Adds.\n\nTwo numbers."
    assert app.handlers == {"add": add}
    assert repr(add) == "<handler add(a: int, b: int = 1) -> int>"


def test_options_are_kept(app: App) -> None:
    @app.handler(name="math.render", timeout=datetime.timedelta(seconds=30), retries=2)
    def render(path: str) -> str:
        return path

    handler = app.handlers["math.render"]
    assert handler is render
    assert (handler.options.timeout, handler.options.retries) == (30.0, 2)
    assert render("x") == "x"


def test_a_handler_without_options_leaves_them_to_the_server(app: App) -> None:
    handler = app.handler(lambda_named)
    assert (handler.options.timeout, handler.options.retries) == (None, None)


def lambda_named(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"timeot": 3}, BadOptionError, "did you mean 'timeout'"),
        ({"nam": "x"}, BadOptionError, "did you mean 'name'"),
        ({"colour": "x"}, BadOptionError, "there are name, timeout, retries"),
        ({"timeout": 0}, BadValueError, "more than 0"),
        ({"timeout": -1}, BadValueError, "more than 0"),
        ({"timeout": "soon"}, BadValueError, "seconds"),
        ({"timeout": True}, BadValueError, "seconds"),
        ({"retries": -1}, BadValueError, "from 0"),
        ({"retries": 1.5}, BadValueError, "from 0"),
        ({"retries": True}, BadValueError, "from 0"),
        ({"name": "two words"}, BadValueError, "no name"),
        ({"name": "9lives"}, BadValueError, "no name"),
        ({"name": "sp.handlers"}, BadValueError, "built in"),
        ({"name": "x" * 300}, BadValueError, "no name"),
    ],
)
def test_wrong_options_are_told_at_import(
    app: App, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        app.handler(**options)(lambda_named)
    assert not app.handlers


def test_no_time_limit_may_be_said_aloud(app: App) -> None:
    app.handler(timeout=math.inf)(lambda_named)
    assert app.handlers["lambda_named"].options.timeout == math.inf


def test_a_name_is_taken_once(app: App) -> None:
    app.handler(lambda_named)
    with pytest.raises(BadValueError, match="already"):
        app.handler(lambda_named)


def test_lambdas_need_a_name(app: App) -> None:
    with pytest.raises(BadValueError, match="name="):
        app.handler(lambda x: x)
    with pytest.raises(BadValueError, match="'' is no name"):
        app.handler(name="")(lambda x: x)
    app.handler(name="same")(lambda x: x)
    assert list(app.handlers) == ["same"]


def test_what_kind_of_function_it_is(app: App) -> None:
    @app.handler
    def plain() -> Any: ...

    @app.handler
    async def coroutine() -> Any: ...

    @app.handler
    def generator() -> Any:
        yield 1

    @app.handler
    async def async_generator() -> Any:
        yield 1

    class Callable:
        async def __call__(self) -> Any: ...

    assert [(h.streams, h.concurrent) for h in app.handlers.values()] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert app.handler(name="called")(Callable()).concurrent
    assert app.handler(name="bound")(functools.partial(coroutine.function)).concurrent


def test_a_raw_handler_is_no_generator(app: App) -> None:
    with pytest.raises(BadValueError, match="generator"):

        @app.raw
        def count(body: bytes) -> Any:
            yield 1


def test_one_raw_handler(app: App) -> None:
    @app.raw
    def echo(body: bytes) -> bytes:
        return body

    assert echo(b"x") == b"x"
    assert app.raw_handler is echo
    assert not app.handlers
    with pytest.raises(BadValueError, match="already"):
        app.raw(lambda_named)


def test_raw_handlers_have_options_too(app: App) -> None:
    @app.raw(timeout=5, retries=0)
    def echo(body: bytes, *, state: Any) -> bytes:
        return body

    assert echo.options.timeout == 5.0
    with pytest.raises(BadOptionError):
        App("other").raw(name="x")(lambda_named)  # type: ignore[call-overload]


def test_a_raw_handler_takes_one_argument(app: App) -> None:
    with pytest.raises(BadValueError, match="one argument"):

        @app.raw
        def two(body: bytes, other: bytes) -> bytes:
            return body

    with pytest.raises(BadValueError, match="one argument"):
        app.raw(lambda: b"")


@pytest.mark.parametrize("name", ["", None, 5])
def test_an_app_has_a_name(name: Any) -> None:
    with pytest.raises(BadValueError):
        App(name)


def test_the_repr_says_what_it_is(app: App) -> None:
    assert repr(app) == "<App calc: 0 handlers>"
    app.handler(lambda_named)
    app.raw(lambda_named)
    assert repr(app) == "<App calc: 1 handler, raw>"


def test_the_handlers_cannot_be_changed_from_outside(app: App) -> None:
    with pytest.raises(TypeError):
        app.handlers["x"] = None  # type: ignore[index]


def test_hooks_stay_functions(app: App) -> None:
    @app.on_start
    def begin(state: Any) -> None: ...

    @app.on_stop
    def end(state: Any) -> None: ...

    assert app.starters == (begin,)
    assert app.stoppers == (end,)


def test_hooks_are_no_generator_functions(app: App) -> None:
    def both(state: Any) -> Iterator[None]:
        yield

    async def aboth(state: Any) -> AsyncIterator[None]:
        yield

    class Called:
        def __call__(self, state: Any) -> Iterator[None]:
            yield

    for function in (both, aboth, functools.partial(both), functools.partial(aboth, state=None), Called()):
        with pytest.raises(BadValueError, match=r"on_start function .* is a generator function, whose body nobody"):
            app.on_start(function)
        with pytest.raises(BadValueError, match=r"on_stop function"):
            app.on_stop(function)


def test_a_handler_pickles_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(shout)) is shout


def test_a_handler_of_nowhere_goes_by_value(app: App) -> None:
    @app.handler
    def local(x: int) -> int:
        return x + 1

    copy: Handler[..., int] = cloudpickle.loads(cloudpickle.dumps(local))
    assert copy is not local
    assert copy(1) == 2
    assert copy.name == "local"


def test_an_app_is_not_served_nowhere() -> None:
    app = App("calc")
    app.handler(name="add")(lambda: None)
    with pytest.raises(BadValueError, match="served nowhere: give serve"):
        app.serve(block=False)
    with pytest.raises(BadValueError, match="served nowhere"):
        app.serve([], block=False)

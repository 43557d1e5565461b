"""Arguments against annotations."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import math
import os
import pathlib
import sys
import typing
import uuid
from typing import Any

import pytest
import typing_extensions

from spworkers.errors import BadArgumentsError, BadValueError
from spworkers.workers.arguments import Parameters
from spworkers.workers.codec import Struct


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Node:
    name: str
    children: list[Node] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise KeyError("not positive")


@dataclasses.dataclass(frozen=True)
class Spot:
    x: int


class Movie(typing_extensions.TypedDict):
    title: str
    year: typing_extensions.NotRequired[int]


class Partial(typing.TypedDict, total=False):
    a: int


Metres = typing.NewType("Metres", float)
T = typing.TypeVar("T", int, str)
NOON = datetime.time(12)
DAY = datetime.date(2026, 11, 23)
KEY = uuid.UUID(int=7)


Item = typing.TypeVar("Item")
Other = typing.TypeVar("Other")


@dataclasses.dataclass
class Pair(typing.Generic[Item, Other]):
    first: Item
    more: list[Item] = dataclasses.field(default_factory=list)
    other: Other | None = None
    next: Pair[Item, Other] | None = None


@dataclasses.dataclass
class Numbers(Pair[int, str], typing.Generic[Item]):
    last: Item | None = None


@dataclasses.dataclass
class Named(Numbers[str]):
    name: str = ""


def fitted(annotation: Any, value: Any) -> Any:
    """What a function gets for a parameter of this annotation."""

    def function(value: Any) -> None: ...

    function.__annotations__["value"] = annotation
    args, _ = Parameters(function, "function").bind([value], {})
    return args[0]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 5),
        (float, 5),
        (float, 2.5),
        (complex, 2.5),
        (bool, True),
        (str, "x"),
        (bytes, b"x"),
        (None, None),
        (Any, object),
        (object, 1),
        (list, [1, "a"]),
        (list[int], [1, 2]),
        (typing.List, [1]),  # noqa: UP006
        (typing.Dict[str, int], {"a": 1}),  # noqa: UP006
        (dict, {1: 2}),
        (dict[str, list[int]], {"a": [1]}),
        (collections.abc.Mapping[str, int], {"a": 1}),
        (tuple[int, str], (1, "a")),
        (tuple[int, ...], (1, 2, 3)),
        (tuple[()], ()),
        (typing.Tuple, (1, "a")),  # noqa: UP006
        (set[int], {1}),
        (frozenset[str], frozenset("a")),
        (collections.abc.Sequence[int], [1]),
        (collections.abc.Iterable[int], [1]),
        (int | None, None),
        (typing.Optional[int], 3),  # noqa: UP045
        (int | str, "a"),
        (typing.Union[int, str], 1),  # noqa: UP007
        (typing.Literal["a", 1], 1),
        (datetime.date, DAY),
        (Metres, 1.5),
        (T, "a"),
        (typing.Annotated[int, "whatever"], 1),
        (Movie, {"title": "M"}),
        (Movie, {"title": "M", "year": 1931}),
        (Partial, {}),
    ],
)
def test_what_fits_is_taken_as_it_is(annotation: Any, value: Any) -> None:
    got = fitted(annotation, value)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value", "made"),
    [
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1], (1,)),
        (set[int], [1, 1], {1}),
        (frozenset[int], [1], frozenset([1])),
        (collections.abc.Sequence[int], (1,), [1]),
        (bytearray, b"x", bytearray(b"x")),
        (datetime.datetime, "2026-11-23T12:00:00Z", datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.timezone.utc)),
        (datetime.date, "2026-11-23", DAY),
        (datetime.time, "12:00:00", NOON),
        (datetime.timedelta, 1.5, datetime.timedelta(seconds=1.5)),
        (uuid.UUID, str(KEY), KEY),
        (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (decimal.Decimal, 3, decimal.Decimal(3)),
        (pathlib.Path, "/tmp", pathlib.Path("/tmp")),
        (os.PathLike[str], "/tmp", pathlib.Path("/tmp")),
        (Colour, "red", Colour.RED),
        (Level, 1, Level.LOW),
        (typing.Literal[Colour.RED], "red", Colour.RED),
        (Point, {"x": 1}, Point(1)),
        (Point, Struct("Point", {"x": 1, "y": 2}), Point(1, 2)),
        (set[Spot], {Struct("Spot", {"x": 1})}, {Spot(1)}),
        (frozenset[Spot], [{"x": 1}, {"x": 1}], frozenset({Spot(1)})),
        (dict[Spot, int], {Struct("Spot", {"x": 1}): 2}, {Spot(1): 2}),
        (Node, {"name": "a", "children": [{"name": "b"}]}, Node("a", [Node("b")])),
        (Point | Node, {"name": "a"}, Node("a")),
        (list[Point], [{"x": 1}, {"x": 2}], [Point(1), Point(2)]),
        (dict[str, datetime.date], {"a": "2026-11-23"}, {"a": DAY}),
        (datetime.date | str, "2026-11-23", "2026-11-23"),  # what fits as it is wins
        (datetime.date | int, "2026-11-23", DAY),
        (int | float, 1, 1),
    ],
)
def test_what_has_no_form_of_its_own_is_made(annotation: Any, value: Any, made: Any) -> None:
    got = fitted(annotation, value)
    assert got == made
    assert type(got) is type(made)


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (int, True, "value: expected int, got bool True"),
        (int, 1.0, "expected int, got float 1.0"),
        (int, "1", "expected int, got str '1'"),
        (int, None, "expected int, got None"),
        (float, True, "expected float, got bool"),
        (float, "nan", "expected float, got str"),
        (bool, 1, "expected bool, got int"),
        (str, b"x", "expected str, got bytes"),
        (bytes, "x", "expected bytes, got str"),
        (None, 0, "expected None, got int"),
        (list[int], [1, "a"], r"value\[1\]: expected int, got str 'a'"),
        (list[int], (1,), r"expected list\[int\], got tuple"),
        (dict[str, int], {"a": "b"}, r"value\['a'\]: expected int"),
        (dict[str, int], {1: 1}, r"value\[1\]: expected str"),
        (dict[str, int], [1], "expected dict"),
        (tuple[int, str], (1,), "got 1 items"),
        (tuple[int, str], (1, 2), r"value\[1\]: expected str"),
        (tuple[int, ...], (1, "a"), r"value\[1\]: expected int"),
        (set[int], [1, "a"], r"value\[1\]"),
        (set, [[]], "expected set"),
        (int | str, 1.5, r"expected int \| str, got float"),
        (list[int] | None, ["a"], r"value\[0\]: expected int, got str"),
        (typing.Literal["a", "b"], "c", "expected one of 'a', 'b', got str 'c'"),
        (typing.Literal[1], True, "expected 1, got bool"),
        (datetime.date, "yesterday", "ISO 8601"),
        (datetime.timedelta, math.inf, "timedelta"),
        (decimal.Decimal, 1.5, "Decimal"),
        (decimal.Decimal, "x", "Decimal"),
        (uuid.UUID, "x", "UUID"),
        (Colour, "green", "Colour: one of 'red', 'blue', got str 'green'"),
        (Colour, ["red"], "Colour"),
        (Level, True, "Level"),
        (Point, {"y": 1}, r"expected Point with x, y\?, got no x"),
        (Point, {"x": 1, "z": 1}, "an unknown 'z'"),
        (Node, {"nam": "a"}, "did you mean 'name'"),
        (Point, {"x": "a"}, r"value\.x: expected int, got str 'a'"),
        (Point, Struct("Pint", {"x": 1}), "expected Point, got Pint"),
        (Point, [1, 2], "expected Point"),
        (Node, {"name": "a", "children": [{"name": 5}]}, r"value\.children\[0\]\.name: expected str, got int 5"),
        (Positive, {"number": 0}, "not positive"),
        (Movie, {"year": 1}, "got no title"),
        (Movie, {"title": "M", "yeer": 1}, "did you mean 'year'"),
        (T, 1.5, "expected int"),
    ],
)
def test_what_does_not_fit_is_named(annotation: Any, value: Any, words: str) -> None:
    with pytest.raises(BadArgumentsError, match=words) as caught:
        fitted(annotation, value)
    assert caught.value.handler == "function"


def test_numpy_arrays_are_checked() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(3)
    assert fitted(numpy.ndarray, array) is array
    assert fitted(numpy.typing.NDArray[numpy.float64], array) is array
    assert fitted(numpy.float32, 1.5) == numpy.float32(1.5)
    with pytest.raises(BadArgumentsError, match=r"numpy\.ndarray"):
        fitted(numpy.ndarray, [1, 2])


def test_deep_arguments_are_refused() -> None:
    value: dict[str, Any] = {"name": "leaf"}
    for _ in range(2000):
        value = {"name": "n", "children": [value]}
    with pytest.raises(BadArgumentsError, match="nested too deeply"):
        fitted(Node, value)


# --- signatures


def everything(a: int, b: float = 1.0, /, c: str = "c", *rest: int, key: str = "k", state: Any, **more: int) -> str:
    """All kinds of parameters."""
    return ""


@pytest.mark.parametrize(
    ("args", "kwargs", "bound"),
    [
        ([1], {}, ([1], {})),
        ([1, 2], {}, ([1, 2], {})),
        ([1, 2, "x", 3, 4], {}, ([1, 2, "x", 3, 4], {})),
        ([1], {"c": "x"}, ([1], {"c": "x"})),
        ([1], {"key": "x", "other": 5}, ([1], {"key": "x", "other": 5})),
    ],
)
def test_arguments_reach_their_parameters(args: list[Any], kwargs: dict[str, Any], bound: Any) -> None:
    assert Parameters(everything, "everything").bind(args, kwargs) == bound


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ([], {}, "missing a required"),
        ([1, 1, "x", "no"], {}, r"rest\[0\]: expected int"),
        ([1], {"other": "no"}, "other: expected int"),
        ([1], {"key": 1}, "key: expected str"),
    ],
)
def test_arguments_that_do_not_fit_the_signature(args: list[Any], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgumentsError, match=words):
        Parameters(everything, "everything").bind(args, kwargs)


def add(a: int, b: int = 0, *, verbose: bool = False) -> int:
    return a + b


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ([1, 2, 3], {}, r"add\(\): too many positional arguments; its signature is add\(a: int"),
        ([1], {"verbos": True}, "did you mean 'verbose'"),
        ([1], {"a": 1}, "multiple values"),
        ([], {"b": 1}, "'a'"),
        ([1], {"state": 1}, "unexpected"),
    ],
)
def test_mistakes_are_explained(args: list[Any], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgumentsError, match=words):
        Parameters(add, "add").bind(args, kwargs)


def test_state_is_no_part_of_the_call() -> None:
    parameters = Parameters(everything, "everything")
    assert parameters.takes_state
    assert "state" not in parameters.text
    assert not Parameters(add, "add").takes_state
    assert not Parameters(lambda state: state, "positional").takes_state


def test_a_required_keyword_is_missed() -> None:
    def only(*, key: int) -> None: ...

    with pytest.raises(BadArgumentsError, match="key"):
        Parameters(only, "only").bind([], {})
    assert Parameters(only, "only").bind([], {"key": 1}) == ([], {"key": 1})


def test_the_signature_is_shown_as_it_was_written() -> None:
    assert Parameters(add, "add").text == "(a: int, b: int = 0, *, verbose: bool = False) -> int"


def test_parameters_without_annotations_take_anything() -> None:
    assert Parameters(lambda a, b=None: None, "any").bind([object, {}], {}) == ([object, {}], {})


class Custom: ...


@pytest.mark.parametrize(
    ("annotation", "name"),
    [(set[Point], "Point"), (dict[Point, int], "Point"), (list[frozenset[list[int]]], "list"), (set[Movie], "Movie")],
)
def test_what_has_no_hash_is_in_no_set_and_no_key(annotation: Any, name: str) -> None:
    def function(value: Any) -> None: ...

    function.__annotations__["value"] = annotation
    words = f"handler odd: parameter 'value': {name} has no hash, so .* @dataclass"
    with pytest.raises(BadValueError, match=words):
        Parameters(function, "odd")


def test_keys_that_are_made_unhashable_do_not_fit() -> None:
    with pytest.raises(BadArgumentsError, match="whose keys have to be hashable"):
        fitted(dict[collections.abc.Sequence[int], int], {(1, 2): 3})
    with pytest.raises(BadArgumentsError, match="whose items have to be hashable"):
        fitted(set[collections.abc.Sequence[int]], {(1, 2)})


@pytest.mark.parametrize(
    "annotation", [Custom, typing.Callable[[], int], type[int], list[Custom], "list[Custom] | None"]
)
def test_annotations_that_no_call_can_satisfy_are_told_at_import(annotation: Any) -> None:
    def function(value: Any) -> None: ...

    function.__annotations__["value"] = annotation
    with pytest.raises(BadValueError, match="handler odd: parameter 'value'"):
        Parameters(function, "odd")


def test_annotations_may_name_what_comes_later() -> None:
    def function(value: Later) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    parameters = Parameters(function, "early")
    with pytest.raises(BadValueError, match="Later"):
        parameters.resolve()
    globals()["Later"] = Point
    try:
        parameters.resolve()
        assert parameters.bind([{"x": 1}], {}) == ([Point(1)], {})
    finally:
        del globals()["Later"]


def test_builtins_and_partials_have_parameters_too() -> None:
    assert Parameters(math.gcd, "gcd").bind([4, 6], {}) == ([4, 6], {})
    assert Parameters(functools.partial(add, 1), "partial").bind([2], {}) == ([2], {})
    with pytest.raises(BadValueError):
        Parameters(typing.cast("Any", 5), "five")


class Over(typing.NamedTuple):
    """As annotated_types' and others' metadata: known by its attribute."""

    gt: Any


class Lengths(typing.NamedTuple):
    min_length: int
    max_length: int | None = None


class Steps(typing.NamedTuple):
    multiple_of: float


class Pattern(typing.NamedTuple):
    pattern: str


class Timezone(typing.NamedTuple):
    tz: Any


class Predicate(typing.NamedTuple):
    func: Any


class Grouped(typing.NamedTuple):
    metadata: list[Any]


class Interval(typing.NamedTuple):
    ge: int
    lt: int


UTC = datetime.timezone.utc
CET = datetime.timezone(datetime.timedelta(hours=1), "CET")
Bound = typing.Annotated


@pytest.mark.parametrize(
    ("annotation", "fits", "words"),
    [
        (Bound[int, range(1, 10)], [1, 9], [(0, "expected int in range(1, 10), got int 0"), (True, "got bool True")]),
        (Bound[float, Over(0)], [0.5, 1], [(0, "expected float > 0"), (math.nan, "expected float > 0")]),
        (Bound[int, Interval(0, 5), "doc"], [0, 4], [(5, "expected int >= 0, < 5, got int 5")]),
        (Bound[int, Steps(3)], [0, 9], [(4, "a multiple of 3")]),
        (Bound[str, Lengths(2, 3)], ["ab", "abc"], [("a", "of length 2 at least"), ("abcd", "of length 3 at most")]),
        (list[Bound[str, Pattern("^a")]], [["a"]], [(["a", "b"], "value[1]: expected str matching '^a'")]),
        (Bound[list[int], Lengths(1)], [[1]], [([], "expected list[int] of length 1 at least, got list []")]),
        (Bound[int, Grouped([Over(1)])], [2], [(1, "expected int > 1")]),
        (Bound[int | None, Over(1)], [None, 2], [(1, "int | None > 1")]),
        (Bound[str, Predicate(str.isascii)], ["a"], [("é", "for which str.isascii holds")]),
        (Bound[str, Over(1)], [], [("a", "expected str > 1")]),
        (Bound[datetime.datetime, Timezone(None)], [datetime.datetime(2026, 1, 1)], []),
        (Bound[datetime.datetime, Timezone(...)], [datetime.datetime(2026, 1, 1, tzinfo=UTC)], []),
        (
            Bound[datetime.datetime, Timezone(CET)],
            [datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))],
            [(datetime.datetime(2026, 1, 1, tzinfo=UTC), "in the zone CET")],
        ),
        (Bound[datetime.datetime, Timezone(...)], [], [(datetime.datetime(2026, 1, 1), "with a zone")]),
        (Bound[int, Over], [1], []),  # a class is no bound
    ],
)
def test_annotated_bounds(annotation: Any, fits: list[Any], words: list[tuple[Any, str]]) -> None:
    for value in fits:
        assert fitted(annotation, value) == value
    for value, text in words:
        with pytest.raises(BadArgumentsError) as caught:
            fitted(annotation, value)
        assert text in str(caught.value)


@pytest.mark.parametrize("annotation", [Pair[int, str], Numbers[str], Named])
def test_the_parameters_of_a_generic_dataclass_are_put_in(annotation: Any) -> None:
    made = typing.get_origin(annotation) or annotation
    inner = {"first": 1, "more": [2], "other": "x"}
    found = fitted(annotation, {**inner, "next": inner})
    assert type(found) is made
    assert found.next == Pair(1, [2], "x")
    for wrong, where in (
        ({"first": "text"}, r"first: expected int"),
        ({"first": 1, "more": ["a"]}, r"more\[0\]: expected int"),
        ({"first": 1, "other": 5}, r"other: expected .*str"),
        ({"first": 1, "next": {"first": "text"}}, r"next"),
    ):
        with pytest.raises(BadArgumentsError, match=where):
            fitted(annotation, wrong)


def test_a_generic_dataclass_without_parameters_takes_anything_there() -> None:
    assert fitted(Pair, {"first": "text", "more": [1, "a"]}) == Pair("text", [1, "a"])


def test_what_derives_from_one_with_parameters_of_its_own() -> None:
    assert fitted(Numbers[bytes], {"first": 1, "last": b"x"}) == Numbers(1, last=b"x")
    for annotation in (Numbers[bytes], Named):
        with pytest.raises(BadArgumentsError, match="last: expected"):
            fitted(annotation, {"first": 1, "last": 5})


@dataclasses.dataclass
class Left(Pair[Item, str]): ...


@dataclasses.dataclass
class Right(Pair[Item, str]):
    first: bool  # type: ignore[assignment]


@dataclasses.dataclass
class Both(Left[int], Right[int]): ...


@dataclasses.dataclass
class ByText(Pair["int", "list[str]"]): ...


@dataclasses.dataclass
class Endless(typing.Generic[Item]):
    more: Endless[list[Item]] | None = None


Items = typing_extensions.TypeVarTuple("Items")


@dataclasses.dataclass
class Row(typing.Generic[typing_extensions.Unpack[Items]]):
    first: int


def test_parameters_of_every_kind() -> None:
    assert fitted(Both, {"first": True}) == Both(True)
    with pytest.raises(BadArgumentsError, match="first: expected bool"):
        fitted(Both, {"first": 5})
    assert fitted(ByText, {"first": 1, "other": ["x"]}) == ByText(1, other=["x"])
    with pytest.raises(BadArgumentsError, match="first: expected int"):
        fitted(ByText, {"first": "text"})
    unhashable = Pair[typing.Annotated[int, ["x"]], str]
    assert fitted(unhashable, {"first": 1, "next": {"first": 2}}) == Pair(1, next=Pair(2))
    with pytest.raises(BadArgumentsError, match="first: expected int"):
        fitted(list[unhashable], [{"first": "text"}])  # type: ignore[valid-type]
    with pytest.raises(BadValueError, match="holds itself, each time with other parameters, without end"):
        fitted(Endless[int], {})
    assert fitted(Row[int, str], {"first": 1}) == Row(1)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a TypedDict may be generic from 3.11 on")
def test_a_generic_typed_dict() -> None:
    class Box(typing.TypedDict, typing.Generic[Item]):  # type: ignore[misc]
        item: Item

    class Labelled(Box[int]):
        label: str

    class Narrowed(Box[float]):
        item: bool  # type: ignore[misc]

    assert fitted(Narrowed, {"item": True}) == {"item": True}
    assert fitted(Box[int], {"item": 1}) == {"item": 1}
    assert fitted(Labelled, {"item": 1, "label": "x"}) == {"item": 1, "label": "x"}
    for annotation, wrong in ((Box[int], {"item": "x"}), (Labelled, {"item": "x", "label": "x"})):
        with pytest.raises(BadArgumentsError, match="item: expected int"):
            fitted(annotation, wrong)

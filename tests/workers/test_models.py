"""Models of pydantic and msgspec: arguments, results, and what is told of one that does not fit."""

from __future__ import annotations

import datetime
from typing import Any, Generic, TypeVar

import pytest

import spworkers as sp
from spworkers.workers.arguments import Parameters
from spworkers.workers.codec import Struct
from spworkers.workers.packing import decode, encode

pydantic: Any = pytest.importorskip("pydantic")
msgspec: Any = pytest.importorskip("msgspec")

pytestmark = pytest.mark.once

T = TypeVar("T")


class Item(pydantic.BaseModel):
    name: str
    count: int = pydantic.Field(default=1, gt=0)


class Order(pydantic.BaseModel):
    number: int = pydantic.Field(alias="orderNumber")
    placed: datetime.datetime
    items: list[Item] = pydantic.Field(default_factory=list)


class Odd(pydantic.BaseModel):
    value: int

    @pydantic.field_validator("value")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise KeyError("even")
        return value


Tags = pydantic.RootModel[list[str]]


@pydantic.dataclasses.dataclass
class Size:
    width: int


class Cat(msgspec.Struct, tag=True, rename="camel"):
    full_name: str
    born: datetime.date | None = None


class Dog(msgspec.Struct, tag=True):
    age: int


class Shelter(msgspec.Struct):
    animals: list[Cat | Dog]
    capacity: int = 10


class Row(msgspec.Struct, array_like=True):
    x: int
    y: int = 0


class Box(msgspec.Struct, Generic[T]):
    content: T


def annotated(annotation: Any) -> Parameters:
    def function(value: Any) -> None: ...

    function.__annotations__["value"] = annotation
    return Parameters(function, "function")


def fitted(annotation: Any, value: Any) -> Any:
    (made,), _ = annotated(annotation).bind([value], {})
    return made


NOON = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Order, Order(orderNumber=7, placed=NOON, items=[Item(name="nut", count=3)])),
        (dict[str, Item], {"a": Item(name="nut")}),
        (Item | Odd, Odd(value=3)),
        (Tags, Tags(["a", "b"])),
        (Size, Size(width=3)),
        (Shelter, Shelter([Cat("Tom", datetime.date(2020, 1, 2)), Dog(3)], 4)),
        (Cat | None, Cat("Tom")),
        (list[Row], [Row(1, 2), Row(3)]),
        (Box[int], Box(3)),
        (Item | Dog, Dog(3)),
    ],
)
def test_a_model_comes_back(annotation: Any, value: Any) -> None:
    assert fitted(annotation, decode(encode(value))) == value


@pytest.mark.parametrize(
    ("annotation", "value", "made"),
    [
        (Order, {"orderNumber": 7, "placed": "2026-11-28T12:00:00Z"}, Order(orderNumber=7, placed=NOON)),
        (Size, {"width": 3}, Size(width=3)),
        (Shelter, {"animals": [{"type": "Dog", "age": 3}]}, Shelter([Dog(3)])),
        (Row, [1, 2], Row(1, 2)),
        (pydantic.PositiveInt, 3, 3),
    ],
)
def test_a_model_is_made_of_a_map(annotation: Any, value: Any, made: Any) -> None:
    assert fitted(annotation, value) == made


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (
            Order,
            {"orderNumber": 7, "placed": NOON, "items": [{"name": "nut", "count": 0}]},
            "value.items[0].count: expected Order (Input should be greater than 0), got dict",
        ),
        (Order, {}, "value.orderNumber: expected Order (Field required; and 1 more)"),
        (Order, Struct("Other", {}), "value: expected Order, got Other {}"),
        (Odd, {"value": 2}, "value: expected Odd (KeyError: 'even')"),
        (Item, 3, "expected Item (Input should be a valid dictionary or instance of Item), got int 3"),
        (Shelter, {"animals": [{"type": "Dog", "age": "x"}]}, "value.animals[0].age: expected Shelter (Expected `int`"),
        (Box[int], {"content": "x"}, "value.content: expected Box (Expected `int`, got `str`)"),
        (pydantic.PositiveInt, 0, "value: expected int > 0, got int 0"),
        (pydantic.constr(pattern="^a", max_length=2), "abc", "expected str of length 2 at most, matching '^a', got"),
    ],
)
def test_what_does_not_fit_is_explained(annotation: Any, value: Any, words: str) -> None:
    with pytest.raises(sp.BadArgumentsError) as caught:
        fitted(annotation, value)
    assert words in str(caught.value)


def test_handlers_take_and_return_models() -> None:
    app = sp.App("orders")

    @app.handler
    def larger(order: Order, by: Row) -> Order:
        return order.model_copy(update={"number": order.number + by.x})

    with app.client() as client:
        sent = Order(orderNumber=7, placed=NOON)
        assert client.larger(sent, Row(1)) == {"orderNumber": 8, "placed": NOON, "items": []}
        with pytest.raises(sp.BadArgumentsError, match="expected Order"):
            client.larger({}, Row(1))

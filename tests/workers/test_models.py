"""Models of pydantic and msgspec: arguments, results, and what is told of one that does not fit."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path
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


SCRIPT = """
from __future__ import annotations
from typing import Annotated, Any, ClassVar, Generic, Optional, TypeVar
import msgspec
import spworkers as sp

T = TypeVar("T")

class Base(msgspec.Struct, rename="camel", tag=True, forbid_unknown_fields=True):
    first_name: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 5

class Kid(Base, kw_only=True):
    parent: Optional[Kid] = None
    tags: list[str] = msgspec.field(default_factory=list)
    made: ClassVar[int] = 7

    def __post_init__(self):
        assert isinstance(self, Kid)
        if self.first_name == "bad":
            raise ValueError("a bad name")

    @property
    def loud(self):
        return self.first_name.upper()

    def again(self):
        return Kid(first_name=self.first_name + "!", parent=self, tags=[self.loud, str(Kid.made)])

class Point(msgspec.Struct, frozen=True, order=True, array_like=True):
    x: int
    y: int = 0

class Box(msgspec.Struct, Generic[T]):
    value: T

app = sp.App("script")

@app.handler
def again(kid: Kid) -> Kid:
    return kid.again()

@app.handler
def unpack(box: Box[int], point: Point) -> list[Any]:
    return [box.value, point, Point(1) < Point(2), hash(point) == hash(Point(point.x, point.y))]

@app.handler
def bound(number: Annotated[int, msgspec.Meta(le=3)]) -> int:
    return number

class Kids(sp.Client, results={"again": Kid}):
    pass

def told(call, *arguments):
    try:
        print(call(*arguments))
    except sp.SPError as error:
        print(type(error).__name__, error)

def repeat(kid):
    return kid.again()

if __name__ == "__main__":
    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, Kids(server.address, timeout=60) as client:
        kid = client.again(Kid(first_name="ann"))
        print(kid, type(kid) is Kid, type(kid.parent) is Kid)
        told(client.again, {"type": "Kid", "firstName": "bad"})
        told(client.again, {"type": "Kid", "firstName": "b", "count": 0})
        told(client.again, {"type": "Kid", "firstName": "b", "more": 0})
        told(client.unpack, {"value": 3}, [4])
        told(client.unpack, {"value": "3"}, [4])
        told(client.bound, 3)
        told(client.bound, 4)
    with sp.Pool(1) as pool:
        kids = list(pool.map(repeat, [Kid(first_name="a"), Kid(first_name="b")]))
        print([kid.loud for kid in kids], {type(kid) is Kid and type(kid.parent) is Kid for kid in kids})
"""


def test_structs_of_a_script_are_what_they_are_in_its_workers(tmp_path: Path) -> None:
    """They go by value, with fields, defaults, bounds and methods; what comes back is of the script's own class."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    ann = "Kid(first_name='ann', count=5, parent=None, tags=[])"
    assert done.stdout.splitlines() == [
        f"Kid(first_name='ann!', count=5, parent={ann}, tags=['ANN', '7']) True True",
        "BadArgumentsError again(): kid: expected Kid (a bad name), got dict {'firstName': 'bad', 'type': 'Kid'}",
        "BadArgumentsError again(): kid.count: expected Kid (Expected `int` >= 1),"
        " got dict {'count': 0, 'firstName': 'b', 'type': 'Kid'}",
        "BadArgumentsError again(): kid: expected Kid (Object contains unknown field `more`),"
        " got dict {'firstName': 'b', 'more': 0, 'type': 'Kid'}",
        "[3, [4, 0], True, True]",
        "BadArgumentsError unpack(): box.value: expected Box (Expected `int`, got `str`), got dict {'value': '3'}",
        "3",
        "BadArgumentsError bound(): number: expected int <= 3, got int 4",
        "['A!', 'B!'] {True}",
    ]


DECODED = """
import dataclasses, enum, sys
from typing import TYPE_CHECKING, Optional
import msgspec
import spworkers as sp

if TYPE_CHECKING:
    from decimal import Decimal

class Color(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Size:
    width: int

class Car(msgspec.Struct):
    color: Color
    size: Size

class Priced(msgspec.Struct):
    price: "Optional[Decimal]" = None

def local():
    class Node(msgspec.Struct):
        value: int
        following: "Optional[Node]" = None

    return Node(1, Node(2))

def same(value):
    return value

def decoded(raw):
    return msgspec.json.decode(raw, type=Car)

if __name__ == "__main__":
    raw = b'{"color":"red","size":{"width":3}}'
    with sp.Pool(1) as pool:
        print(pool.submit(decoded, raw).result(60))
        print(pool.submit(same, decoded(raw)).result(60) == Car(Color.RED, Size(3)))
        print(pool.submit(same, Color.RED).result(60) is Color.RED)
        print(pool.submit(same, Priced(3)).result(60), pool.submit(same, local()).result(60))
"""


def test_what_msgspec_has_met_can_still_be_sent(tmp_path: Path) -> None:
    """It leaves what it needs on classes that are not its own; and names that it cannot find are no hindrance."""
    script = tmp_path / "script.py"
    script.write_text(DECODED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "Car(color=<Color.RED: 'red'>, size=Size(width=3))",
        "True",
        "True",
        "Priced(price=3) Node(value=1, following=Node(value=2, following=None))",
    ]

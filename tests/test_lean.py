"""`lean` and `lean_record`: what they share with dataclasses, held against dataclasses."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from spworkers.lean import item, lean, lean_record

pytestmark = pytest.mark.once


@lean
class Point:
    x: int
    y: int = 0
    names: list[str] = item(factory=list)
    secret: str = item(factory=str, repr=False)


@dataclasses.dataclass(frozen=True)
class Model:
    x: int
    y: int = 0
    names: list[str] = dataclasses.field(default_factory=list)
    secret: str = dataclasses.field(default_factory=str, repr=False)


@lean_record
class Thing:
    name: str
    parts: list[int] = item(factory=list)

    def __repr__(self) -> str:
        return f"<Thing {self.name}>"


@pytest.mark.parametrize(
    ("values", "named"), [((1,), {}), ((1, 2), {}), ((1,), {"y": 3}), ((), {"y": 2, "x": 1}), ((1, 2, ["a"]), {})]
)
def test_a_lean_class_is_made_and_shown_as_a_dataclass_is(values: tuple, named: dict) -> None:
    lean_one, model = Point(*values, **named), Model(*values, **named)
    assert vars(lean_one) == vars(model)
    assert repr(lean_one) == repr(model).replace("Model", "Point")


def test_each_object_has_what_a_factory_made_for_it() -> None:
    assert Point(1).names is not Point(1).names
    assert Thing("a").parts is not Thing("a").parts


@pytest.mark.parametrize(
    ("values", "named", "said"),
    [
        ((), {}, "Point needs 'x'"),
        ((1, 2, [], "", 5), {}, "Point takes 4 values, not 5"),
        ((1,), {"x": 2}, "Point got 'x' twice"),
        ((1,), {"z": 2}, "Point takes no 'z'"),
    ],
)
def test_wrong_arguments_are_named(values: tuple, named: dict, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Point(*values, **named)


def test_values_are_equal_hash_alike_and_do_not_change() -> None:
    one = Point(1, 2, (), "s")
    assert one == Point(1, 2, (), "s") != Point(1, 3, (), "s")
    assert one != Model(1, 2, (), "s")
    assert len({one, Point(1, 2, (), "s")}) == 1
    with pytest.raises(AttributeError, match="x of Point cannot be changed"):
        one.x = 5
    with pytest.raises(AttributeError, match="x of Point cannot be changed"):
        del one.x
    assert pickle.loads(pickle.dumps(one)) == one


def test_a_record_changes_and_equals_only_itself() -> None:
    one = Thing("a")
    one.name = "b"
    assert repr(one) == "<Thing b>"
    assert one != Thing("b")
    assert len({one, Thing("b")}) == 2

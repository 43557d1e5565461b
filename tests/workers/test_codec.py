"""Values as bytes and back."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import time
import uuid
import zoneinfo
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers.errors import GarbledError, SerializationError
from spworkers.workers import codec
from spworkers.workers.codec import MAX_NESTING, Struct
from spworkers.workers.packing import decode, encode


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: int
    label: str = dataclasses.field(default="", compare=False)
    derived: int = dataclasses.field(init=False, default=7)


ZONES = st.sampled_from([None, datetime.timezone.utc, datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=ZONES)
    | st.dates()
    | st.times(timezones=ZONES)
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4), max_leaves=8
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=5)
        | st.sets(HASHABLE, max_size=5)
        | st.frozensets(HASHABLE, max_size=5)
    ),
    max_leaves=20,
)


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, (list, tuple)):
        return all(map(alike, one, other))
    if isinstance(one, dict):
        return all(alike(value, other[key]) for key, value in one.items())
    return True


@given(VALUES)
def test_what_goes_comes_back(value: Any) -> None:
    assert alike(decode(encode(value)), value)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_garbled(data: bytes) -> None:
    try:
        value = decode(data)
    except GarbledError:
        return
    encode(value)


@given(VALUES, st.data())
def test_a_broken_message_is_a_value_or_garbled(value: Any, data: st.DataObject) -> None:
    packed = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(packed))
    except GarbledError:
        return


@given(VALUES)
def test_a_cut_message_is_garbled(value: Any) -> None:
    with pytest.raises(GarbledError):
        decode(encode(value)[:-1])


@given(st.integers(0, 127), st.binary(max_size=40))
def test_any_extension_is_a_value_or_garbled(code: int, data: bytes) -> None:
    try:
        decode(msgpack.packb(msgpack.ExtType(code, data)))
    except GarbledError:
        return


@given(st.lists(st.one_of(st.binary(max_size=30), VALUES.map(encode)), max_size=8))
def test_what_came_before_has_no_part_in_a_value(messages: list[bytes]) -> None:
    """What decodes short messages is kept for the next one."""
    for data in messages:
        try:
            expected = repr(codec._unpacked(data))
        except Exception:
            with pytest.raises(GarbledError):
                decode(data)
        else:
            assert repr(decode(data)) == expected


def test_values_of_one_byte() -> None:
    for number in range(256):
        data = bytes([number])
        try:
            expected = codec._unpacked(data)
        except ValueError:
            with pytest.raises(GarbledError):
                decode(data)
        else:
            assert decode(data) == expected
            assert type(decode(data)) is type(expected)


def test_nan_comes_back() -> None:
    assert decode(encode(float("nan"))) != decode(encode(float("nan")))
    assert decode(encode(decimal.Decimal("sNaN"))).is_snan()


def test_zones_come_back_as_their_offsets() -> None:
    there = datetime.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    back = decode(encode(there))
    assert back == there
    assert back.utcoffset() == datetime.timedelta(hours=2)


def test_other_languages_instants_are_read() -> None:
    instant = datetime.datetime(2026, 11, 23, 16, 29, 39, tzinfo=datetime.timezone.utc)
    assert decode(msgpack.packb(msgpack.Timestamp.from_datetime(instant))) == instant
    assert decode(msgpack.packb(msgpack.ExtType(codec.DATETIME, b"2026-11-23T16:29:39Z"))) == instant


def test_a_dataclass_comes_back_as_the_fields_that_make_it() -> None:
    back = decode(encode(Point(1, 2, "here")))
    assert back == {"x": 1, "y": 2, "label": "here"}
    assert isinstance(back, Struct)
    assert back.type_name == "Point"
    assert repr(back) == "Point(x=1, y=2, label='here')"
    assert alike(decode(encode(back)), back)  # a relay loses nothing
    assert decode(encode(back)).type_name == "Point"


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: Any


@dataclasses.dataclass(frozen=True)
class Other:
    x: Any


def test_frozen_dataclasses_come_back_in_sets_and_as_keys() -> None:
    one, other = Struct("Frozen", {"x": 1}), Struct("Other", {"x": 1})
    assert one != other
    assert one == {"x": 1}
    assert not one != {"x": 1}
    assert one != 5
    for kind in (set, frozenset):
        back = decode(encode(kind({Frozen(1), Other(1)})))
        assert type(back) is kind
        assert back == {one, other}
    assert decode(encode({Frozen((1, Frozen(2))): 3})) == {
        Struct("Frozen", {"x": (1, Struct("Frozen", {"x": 2}))}): 3,
    }
    many = {Frozen(number) for number in range(1000)}
    assert {each["x"] for each in decode(encode(many))} == set(range(1000))


@dataclasses.dataclass(eq=False)
class Itself:
    x: list[int]


Listed: Any = enum.Enum("Listed", {"ONE": [1]})


@pytest.mark.parametrize("number", [1, 300])
@pytest.mark.parametrize(("value", "name"), [(Itself([1]), "Itself"), (Listed.ONE, "list")])
def test_what_cannot_be_in_a_set_is_not_the_bytes_fault(value: Any, name: str, number: int) -> None:
    others = dict.fromkeys(range(number))
    for whole in ({*others, value}, frozenset({*others, value}), {**others, value: 1}, [{(value,)}]):
        with pytest.raises(GarbledError, match=r"^a (\w+) that is in a set, or the key of a dict, cannot") as caught:
            decode(encode(whole))
        assert str(caught.value).startswith(f"a {'tuple' if type(whole) is list else name} that")
        assert "unhashable type: 'list'" in str(caught.value)


def test_enums_come_back_as_their_values() -> None:
    assert decode(encode([Colour.RED, Level.HIGH])) == ["red", 3]
    assert type(decode(encode(Level.HIGH))) is int


def test_subclasses_come_back_as_what_they_derive_from() -> None:
    class Text(str):
        __slots__ = ()

    Pair = collections.namedtuple("Pair", "a b")
    value = [Text("t"), collections.OrderedDict(a=1), collections.Counter("aa"), pathlib.Path("/tmp/x"), Pair(1, 2)]
    assert alike(decode(encode(value)), ["t", {"a": 1}, {"a": 2}, "/tmp/x", (1, 2)])


def test_buffers_come_back_as_bytes() -> None:
    assert alike(decode(encode([bytearray(b"a"), memoryview(b"b")])), [b"a", b"b"])


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**100, -(10**100)])
def test_integers_have_no_limit(value: int) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "object"),
        (range(3), "range"),
        ({"deep": [Colour]}, "EnumType|EnumMeta"),
        (Point, "type"),
        ("\ud800", "Unicode"),
        (datetime.time(1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "send a datetime"),
        (memoryview(b"abcd")[::2], "memoryview"),
    ],
)
def test_what_cannot_be_carried_says_so(value: Any, words: str) -> None:
    with pytest.raises(SerializationError, match=words):
        encode(value)


def test_a_value_that_holds_itself_says_so() -> None:
    loop: list[Any] = []
    loop.append((loop,))
    with pytest.raises(SerializationError):
        encode(loop)


def nested(depth: int) -> Any:
    value: Any = ()
    for _ in range(depth - 1):
        value = (value,)
    return value


def test_extensions_lie_in_each_other_up_to_the_limit() -> None:
    assert decode(encode(nested(MAX_NESTING))) == nested(MAX_NESTING)
    with pytest.raises(SerializationError, match="deeper"):
        encode(nested(MAX_NESTING + 1))
    beyond = msgpack.packb(msgpack.ExtType(codec.TUPLE, b"\x91" + encode(nested(MAX_NESTING))))
    with pytest.raises(GarbledError, match="deeper"):
        decode(beyond)


def test_lists_nested_beyond_the_limit_are_garbled() -> None:
    with pytest.raises(GarbledError, match="nested too deeply"):
        decode(b"\x91" * 10_000 + b"\xc0")


def test_lying_lengths_cost_nothing() -> None:
    """Hundreds of arrays that claim a million elements each, 32 extensions deep."""
    level = b"\xdd\x00\x0f\x00\x00" * 500
    body = level + b"\xc0" * 100_000
    for _ in range(MAX_NESTING - 1):
        body = level + msgpack.packb(msgpack.ExtType(codec.TUPLE, body))
    begin = time.process_time()
    with pytest.raises(GarbledError):
        decode(body)
    assert time.process_time() - begin < 1.0


@pytest.mark.parametrize("code", [codec.SET, codec.FROZENSET])
def test_sets_of_colliding_numbers_are_refused(code: int) -> None:
    colliding = [number * (2**61 - 1) for number in range(20_000)]
    begin = time.process_time()
    with pytest.raises(GarbledError, match="hashes in common"):
        decode(msgpack.packb(msgpack.ExtType(code, encode(colliding))))
    assert time.process_time() - begin < 5.0


def test_maps_of_colliding_numbers_are_refused() -> None:
    body = b"\xde\x40\x00" + b"".join(encode(number * (2**61 - 1)) + b"\xc0" for number in range(0x4000))
    with pytest.raises(GarbledError, match="hashes in common"):
        decode(body)


def test_large_honest_sets_and_maps_are_fine() -> None:
    numbers = set(range(100_000))
    assert decode(encode(numbers)) == numbers
    assert decode(encode(dict.fromkeys(numbers))) == dict.fromkeys(numbers)


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (99, b""),
        (codec.DATETIME, b"yesterday"),
        (codec.DATE, b"2026-11-23T00:00:00"),
        (codec.TIMEDELTA, b"9" * 24),
        (codec.UUID, b"short"),
        (codec.DECIMAL, b"1.2.3"),
        (codec.COMPLEX, b"12345678"),
        (codec.TUPLE, encode({"a": 1})),
        (codec.SET, encode([[1]])),
        (codec.DATACLASS, encode(["Point"])),
        (codec.DATACLASS, encode(["Point", {1: 2}])),
        (codec.ENUM, encode([1, 2])),
        (codec.ARRAY, encode(["|O", [1], b"12345678"])),
        (codec.ARRAY, encode(["<f8", [-1], b"12345678"])),
        (codec.ARRAY, encode(["<f8", [3], b"12345678"])),
        (codec.ARRAY, encode(["<f8", [10**12], b""])),
        (codec.ARRAY, encode(["<f8", [1] * 100, b"12345678"])),
    ],
)
def test_broken_extensions_are_garbled(code: int, data: bytes) -> None:
    with pytest.raises(GarbledError):
        decode(msgpack.packb(msgpack.ExtType(code, data)))


def test_numpy_arrays_come_back() -> None:
    numpy = pytest.importorskip("numpy")
    for array in (
        numpy.arange(12, dtype="<i4").reshape(3, 4).T,
        numpy.array(1.5),
        numpy.zeros((0, 3), "u1"),
        numpy.array(["a", "bcd"]),
        numpy.array([1 + 2j], "c16"),
        numpy.array(["2026-11-23"], "M8[D]"),
        numpy.array([True]),
    ):
        back = decode(encode(array))
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert (back == array).all()
        assert back.flags.writeable


def test_numpy_scalars_come_back_as_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert alike(decode(encode([numpy.int8(3), numpy.float32(0.5), numpy.bool_(True)])), [3, 0.5, True])


def test_numpy_arrays_of_objects_are_refused() -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(SerializationError, match="object"):
        encode(numpy.array([object()]))
    with pytest.raises(SerializationError, match="only numbers"):
        encode(numpy.zeros(2, [("a", "i4")]))


def test_uuids_are_sixteen_bytes() -> None:
    identity = uuid.UUID(int=5)
    assert encode(identity) == b"\xd8\x05" + identity.bytes

"""What `dataclasses.dataclass` gives, at a fraction of its cost, for classes that every program makes at its start.

A dataclass's methods are source code that is composed, compiled and run for each class, and its module imports
`inspect` and with it the tokenizer: a good part of what a first socket cost (docs/architecture.md). The methods here
are the same for all classes and read the fields when they are called: right where objects are made by the dozen. Type
checkers take it for a dataclass. What users may want to `dataclasses.replace` is a dataclass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_about):
        """What it is at run time, for Pythons that do not have it."""
        return lambda function: function


__all__ = ["item", "lean", "lean_record"]

T = TypeVar("T")


class _Item:
    """What a field's declaration says beside its type."""

    def __init__(self, factory: Callable[[], Any] | None, shown: bool) -> None:
        self.factory = factory
        self.shown = shown


def item(*, factory: Callable[[], Any] | None = None, repr: bool = True) -> Any:
    """A field that is not only a type and perhaps a value.

    Args:
        factory: makes the value for each object for which none is given.
        repr: whether `repr` shows it.
    """
    return _Item(factory, repr)


@dataclass_transform(frozen_default=True, field_specifiers=(item,))
def lean(cls: type[T]) -> type[T]:
    """Make a class of values of one with annotated fields, which cannot be changed.

    It gets `__init__` (by position and by name, in the order of the declarations),
    `__repr__`, unless it has its own, `__eq__` and `__hash__` by its values.
    """
    fields = _Fields(cls)

    def refuse(self: Any, name: str, *_value: Any) -> NoReturn:
        raise AttributeError(f"{name} of {type(self).__name__} cannot be changed")

    def equal(self: Any, other: Any) -> Any:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def hashed(self: Any) -> int:
        return hash(tuple(self.__dict__.values()))

    return _equip(cls, fields, __setattr__=refuse, __delattr__=refuse, __eq__=equal, __hash__=hashed)


@dataclass_transform(eq_default=False, field_specifiers=(item,))
def lean_record(cls: type[T]) -> type[T]:
    """The same for objects with a life: their fields can be changed, and each equals only itself."""
    return _equip(cls, _Fields(cls))


class _Fields:
    """The fields of a class, read from its annotations."""

    def __init__(self, cls: type) -> None:
        self.of = cls.__name__
        self.names: list[str] = []
        self.defaults: dict[str, Any] = {}
        self.factories: dict[str, Callable[[], Any]] = {}
        self.hidden: set[str] = set()
        for name in cls.__annotations__:
            self.names.append(name)
            value = cls.__dict__.get(name, self)
            if isinstance(value, _Item):
                delattr(cls, name)
                if value.factory is not None:
                    self.factories[name] = value.factory
                if not value.shown:
                    self.hidden.add(name)
            elif value is not self:
                self.defaults[name] = value

    def fill(self, own: dict[str, Any], values: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Set the fields of a new object, whose `__dict__` is `own`."""
        if len(values) > len(self.names):
            raise TypeError(f"{self.of} takes {len(self.names)} values, not {len(values)}")
        given = dict(zip(self.names, values, strict=False))
        for name in named:
            if name in given or name not in self.names:
                raise TypeError(f"{self.of} got {name!r} twice" if name in given else f"{self.of} takes no {name!r}")
        given.update(named)
        for name in self.names:
            if name in given:
                own[name] = given[name]
            elif name in self.factories:
                own[name] = self.factories[name]()
            elif name in self.defaults:
                own[name] = self.defaults[name]
            else:
                raise TypeError(f"{self.of} needs {name!r}")


def _equip(cls: type[T], fields: _Fields, **methods: Any) -> type[T]:
    def begin(self: Any, /, *values: Any, **named: Any) -> None:
        fields.fill(self.__dict__, values, named)

    def shown(self: Any) -> str:
        values = (f"{name}={value!r}" for name, value in self.__dict__.items() if name not in fields.hidden)
        return f"{type(self).__qualname__}({', '.join(values)})"

    methods["__init__"] = begin
    if "__repr__" not in cls.__dict__:
        methods["__repr__"] = shown
    for name, method in methods.items():
        setattr(cls, name, method)
    return cls

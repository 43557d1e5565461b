"""Models of pydantic and msgspec, as arguments and as results. Neither is imported here: who has a model has it.

A model goes out as a dataclass does, as its name and a map of its fields, under the names (and with the tag) that its
library gives them in JSON. What arrives is judged by the library, by the model's own rules. Models that are no map,
`RootModel` and `array_like`, go as the bare value that they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Final

from spworkers.workers.codec import Struct
from spworkers.workers.shapes import Mismatch, Shape

__all__ = ["Model", "model_shape"]


class Model(Shape):
    """A class whose library makes its objects.

    Args:
        name: the class's, as `Struct.type_name` has it.
        make: an object from what arrived.
        refusal: what `make` raises for what does not fit.
        explain: that error in words, and where in the value it lies.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Any], Any],
        refusal: type[Exception],
        explain: Callable[[Any], tuple[str, str]],
    ) -> None:
        self.text = name
        self._make = make
        self._refusal = refusal
        self._explain = explain

    def fit(self, value: Any, exact: bool) -> Any:
        named = isinstance(value, Struct)
        if (named and value.type_name != self.text) or (exact and not named):
            raise Mismatch(self.text, value)
        try:
            return self._make(value)
        except Mismatch:
            raise
        except self._refusal as error:
            reason, path = self._explain(error)
            raise Mismatch(f"{self.text} ({reason})", value, path) from error
        except Exception as error:  # a validator is the user's code and raises what it likes
            raise Mismatch(f"{self.text} ({type(error).__name__}: {error})", value) from error


def model_shape(annotation: Any, kind: type, shape_of: Callable[[Any], Shape]) -> Shape | None:
    """The shape of a model; None: it is none.

    Args:
        annotation: the whole of it, a generic's arguments included.
        kind: its class.
        shape_of: of what msgspec meets inside of a model and does not know.
    """
    msgspec: Any = sys.modules.get("msgspec")
    if msgspec is not None and issubclass(kind, msgspec.Struct):
        return _msgspec_shape(msgspec, annotation, kind, shape_of)
    pydantic: Any = sys.modules.get("pydantic")
    if pydantic is not None and (
        "__pydantic_validator__" in vars(kind) or hasattr(kind, "__get_pydantic_core_schema__")
    ):
        adapter = pydantic.TypeAdapter(annotation)
        return Model(kind.__qualname__, adapter.validate_python, pydantic.ValidationError, _explained_by_pydantic)
    return None


def _msgspec_shape(msgspec: Any, annotation: Any, kind: type, shape_of: Callable[[Any], Shape]) -> Shape:
    def unknown(inner: Any, value: Any) -> Any:
        return shape_of(inner).fit(value, False)

    def make(value: Any) -> Any:
        return msgspec.convert(value, annotation, dec_hook=unknown)

    return Model(kind.__qualname__, make, msgspec.ValidationError, _explained_by_msgspec)


_PLACE: Final = re.compile(r"(.*) - at `\$?(.*)`", re.DOTALL)


def _explained_by_msgspec(error: Exception) -> tuple[str, str]:
    found = _PLACE.fullmatch(str(error))
    return (found[1], found[2]) if found else (str(error), "")


def _explained_by_pydantic(error: Any) -> tuple[str, str]:
    first, *others = error.errors(include_url=False, include_context=False)
    more = f"; and {len(others)} more" if others else ""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
    return f"{first['msg']}{more}", path

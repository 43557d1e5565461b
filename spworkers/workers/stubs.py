"""The source of a typed client of an App: what `spworkers stubs` writes, for editors and type checkers.

The class that it holds is a `Client` that has each handler as a method, as far as type checkers see; at run time
these are the handlers over there, as they are of every client. Results that arrive as something simpler than their
annotation says (dataclasses, models, enums) are named at run time too, and their modules imported then.
"""

from __future__ import annotations

import enum
import inspect
import keyword
import types
import typing
from typing import Any, Final

from spworkers.workers.annotations import UnknownShape, is_made
from spworkers.workers.app import App
from spworkers.workers.arguments import STATE, plain_function
from spworkers.workers.client import Client
from spworkers.workers.handler import Handler

__all__ = ["client_module"]

_INDENT: Final = " " * 8


def client_module(app: App, source: str) -> str:
    """A Python module with a typed client.

    Args:
        source: where the app comes from, for the docstring: `calc:app`.
    """
    writer = _Writer()
    methods = [writer.method(handler) for handler in app.handlers.values() if _is_method(handler.name)]
    left_out = [handler.name for handler in app.handlers.values() if not _is_method(handler.name)]
    results = _Writer()
    made = [
        f'        "{handler.name}": {results.show(item)},'
        for handler in app.handlers.values()
        if (item := _result_item(handler)) is not None
    ]
    name = _class_name(app.name)
    head = [f"class {name}(", "    sp.Client,", "    results={", *made, "    },", "):"]
    if not made:
        head = [f"class {name}(sp.Client):"]
    lines = [
        f'"""A typed client of the App {app.name}, as `spworkers stubs {source}` writes it: do not edit it."""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import TYPE_CHECKING",
        "",
        "import spworkers as sp",
        *(f"import {module}" for module in sorted(results.modules)),
        "",
        "if TYPE_CHECKING:",
        *(f"    import {module}" for module in sorted((writer.modules | {"typing"}) - results.modules)),
        "",
        "",
        *head,
        f'    """Calls the handlers of {app.name}."""',
        "",
        *([f"    # By call() only: {', '.join(left_out)}", ""] if left_out else []),
        "    if TYPE_CHECKING:",
        *("\n".join(["", method]) for method in methods or [f"{_INDENT}pass"]),
        "",
    ]
    return "\n".join(lines)


def _is_method(name: str) -> bool:
    """It is one, and none that a client has for itself, `map` say."""
    return name.isidentifier() and not keyword.iskeyword(name) and name[:1] != "_" and not hasattr(Client, name)


def _result_item(handler: Handler[..., Any]) -> Any:
    """The annotation of a result, or of a stream's items; None: there is nothing to make of what arrives."""
    annotation = _hints(handler).get("return", Any)
    if handler.streams:
        annotation = (typing.get_args(annotation) or (Any,))[0]
    try:
        return annotation if is_made(annotation) else None
    except (UnknownShape, NameError):  # what it returns cannot be sent, which is told when it does
        return None


def _hints(handler: Handler[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(plain_function(handler.function), include_extras=True)
    except Exception:  # names that exist for type checkers only
        return {}


def _class_name(name: str) -> str:
    words = "".join(char if char.isalnum() else " " for char in name).split()
    found = "".join(word[:1].upper() + word[1:] for word in words)
    return found if found.isidentifier() else f"Client{found}"


class _Writer:
    """Writes methods, and remembers which modules their annotations need."""

    def __init__(self) -> None:
        self.modules: set[str] = set()

    def method(self, handler: Handler[..., Any]) -> str:
        hints = _hints(handler)
        parameters = ["self"]
        plain = keyword_only = False
        for parameter in inspect.signature(handler.function).parameters.values():
            if parameter.name == STATE and parameter.kind is parameter.KEYWORD_ONLY:
                continue
            if plain and parameter.kind is not parameter.POSITIONAL_ONLY:
                parameters.append("/")
            plain = parameter.kind is parameter.POSITIONAL_ONLY
            if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
                parameters.append("*")
            keyword_only = keyword_only or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
            parameters.append(self._parameter(parameter, hints.get(parameter.name, Any)))
        if plain:
            parameters.append("/")
        result = self._result(handler, hints.get("return", Any))
        doc = [f'{_INDENT}    """{handler.doc.splitlines()[0]}"""'] if handler.doc and '"""' not in handler.doc else []
        head = f"{_INDENT}def {handler.name}({', '.join(parameters)}) -> {result}:"
        return "\n".join([head, *doc]) if doc else f"{head} ..."

    def _parameter(self, parameter: inspect.Parameter, annotation: Any) -> str:
        kind = parameter.kind
        stars = "*" if kind is parameter.VAR_POSITIONAL else "**" if kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else " = ..."
        return f"{stars}{parameter.name}: {self.show(annotation)}{default}"

    def _result(self, handler: Handler[..., Any], annotation: Any) -> str:
        if not handler.streams:
            return self.show(annotation)
        item = (typing.get_args(annotation) or (Any,))[0]
        return f"sp.Stream[{self.show(item)}]"

    def show(self, annotation: Any) -> str:
        """An annotation as source."""
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation is None or annotation is type(None):
            return "None"
        if annotation is Any or isinstance(annotation, (str, typing.TypeVar)):
            return self._named(typing.Any)
        if origin is typing.Annotated:
            return self.show(args[0])
        if origin in (typing.Union, types.UnionType):
            return " | ".join(self.show(each) for each in args)
        if origin is typing.Literal:
            return f"{self._named(typing.Literal)}[{', '.join(map(self._choice, args))}]"
        if isinstance(origin, type) and args:
            shown = ", ".join("..." if each is Ellipsis else self.show(each) for each in args)
            return f"{self._named(origin)}[{shown}]"
        return self._named(annotation if isinstance(annotation, type) else typing.Any)

    def _choice(self, value: Any) -> str:
        return f"{self._named(type(value))}.{value.name}" if isinstance(value, enum.Enum) else repr(value)

    def _named(self, thing: Any) -> str:
        module = getattr(thing, "__module__", "typing")
        name = getattr(thing, "__qualname__", None) or getattr(thing, "_name", None) or "Any"
        if module == "builtins":
            return str(name)
        if module == "__main__" or "<locals>" in name:  # nobody can import it
            return self._named(typing.Any)
        self.modules.add(module)
        return f"{module}.{name}"

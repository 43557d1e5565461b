"""How a worker gets its app: by the name that it can be imported by, or by value.

`__main__` is never imported a second time: not every script guards itself against that, and a notebook has no file to
import. What lives there goes by value (cloudpickle), once per worker; everything else by name, so that a worker runs
the module as any program would.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final, TypeVar

import cloudpickle

from spworkers.errors import BadValueError, SerializationError
from spworkers.workers.app import App
from spworkers.workers.byvalue import dumps, has_file
from spworkers.workers.shapes import closest

__all__ = ["AppNotFoundError", "describe", "find", "find_as", "load", "origin_of"]

T = TypeVar("T")

Origin = dict[str, Any]
"""What goes to the worker: `{"import": "module:attribute"}` or `{"value": bytes}`; it fits into a control message."""

_MODULE: Final = "import"
_VALUE: Final = "value"


class AppNotFoundError(BadValueError):
    """`module:attribute` names nothing of the kind: module or attribute do not exist, or it is something else."""


def origin_of(app: App) -> Origin:
    """Where a worker gets this app from.

    Raises:
        SerializationError: it cannot be imported, and its functions refer to something that cannot be sent either.
    """
    name = _import_name(app)
    if name:
        return {_MODULE: name}
    try:
        return {_VALUE: dumps(app, app.module)}
    except Exception as error:  # whatever the __reduce__ of somebody's object raises
        raise SerializationError(
            f"{app!r} cannot be sent to its workers ({type(error).__name__}: {error}): let its handlers"
            " refer to nothing that cannot be pickled (make such things in @app.on_start), or put it into a module that"
            " can be imported"
        ) from error


def _import_name(app: App) -> str:
    """`module:attribute` under which this very app can be imported in another process; empty if there is none."""
    own = sys.modules.get(app.module)
    for module in [own, *list(sys.modules.values())]:
        name = getattr(module, "__name__", "__main__")
        if module is None or name == "__main__" or sys.modules.get(name) is not module or not has_file(name):
            continue
        for attribute, value in list(vars(module).items()):
            if value is app:
                return f"{name}:{attribute}"
    return ""


def load(origin: Origin) -> App:
    """The app, in the worker.

    Raises:
        AppNotFoundError: as `find`.
        Exception: whatever the import of the user's module raises.
    """
    if _MODULE in origin:
        return find(origin[_MODULE])
    app = cloudpickle.loads(origin[_VALUE])
    if not isinstance(app, App):
        raise AppNotFoundError(f"what came by value is no App but {type(app).__name__}")
    return app


def find(target: str) -> App:
    """Import an app by its name; see `find_as`."""
    return find_as(target, App, "calc:app")


def find_as(target: str, kind: type[T], example: str) -> T:
    """Import something by its name.

    Args:
        target: `module:attribute`; of the attribute, dots lead to attributes of attributes.
        kind: what it has to be.
        example: of such a name, for messages; after the colon stands what one calls such a thing.

    Raises:
        AppNotFoundError: no such module, no such attribute, or it is something else.
        Exception: whatever the import of the module raises.
    """
    module_name, colon, attribute = target.partition(":")
    usual_module, _, noun = example.partition(":")
    if not module_name or not colon or not attribute:
        raise AppNotFoundError(f"{target!r} names no {noun}: write module:attribute, {example} for instance")
    if "/" in module_name or module_name.startswith("."):
        name = module_name.rpartition("/")[2].removesuffix(".py") or usual_module
        raise AppNotFoundError(
            f"{target!r}: {module_name} is a file's name, and a module's is wanted: {name}:{attribute}, from its folder"
        )
    module = _import(module_name, target)
    value: Any = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            hint = _hint(module, attribute, kind, f", nor any other {kind.__name__}")
            raise AppNotFoundError(f"there is no {attribute!r} in {module_name}{hint}") from None
    if not isinstance(value, kind):
        hint = _hint(module, attribute, kind, f"; there is no {kind.__name__} in {module_name}")
        raise AppNotFoundError(f"{target} is no {kind.__name__} but {type(value).__name__}{hint}")
    return value


def _import(module_name: str, target: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Only when this module, or a package that it lies in, is missing; not what the module itself imports.
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            file = module_name.endswith(".py")
            hint = f"; did you mean {module_name.removesuffix('.py')}:{target.partition(':')[2]}?" if file else ""
            raise AppNotFoundError(
                f"{target}: there is no module {error.name!r} in the current folder or on Python's path{hint}"
            ) from None
        raise


def _hint(module: Any, attribute: str, kind: type, otherwise: str) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, kind)]
    nearest = closest(attribute, names) or names
    return f"; did you mean {nearest[0]!r}?" if nearest else otherwise


def describe(origin: Origin) -> str:
    """Where the app comes from, for a person."""
    return str(origin[_MODULE]) if _MODULE in origin else "an app by value"

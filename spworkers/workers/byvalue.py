"""What goes by value: functions and classes that no worker can import.

So do those of modules that exist in this process only, such as that of `runpy.run_path`, as those of `__main__` do.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import ChainMap
from collections.abc import Callable
from types import CodeType
from typing import Any

import cloudpickle

from spworkers.workers.structsbyvalue import forget_lookups, is_meta, is_struct, reduce_meta, reduce_struct

__all__ = ["Pickler", "dumps", "has_file", "is_by_value", "pickled"]


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """cloudpickle's, whose functions know the file that they come from, for the lines of a traceback.

    And classes of msgspec are made anew with all that they are.
    """

    def reducer_override(self, thing: Any) -> Any:
        """How this is pickled, if not as usual."""
        reduced = super().reducer_override(thing)
        if reduced is NotImplemented:
            return reduce_meta(thing) if is_meta(thing) else reduced
        if is_struct(thing):  # by value, as nobody could import it
            return reduce_struct(thing)
        if isinstance(thing, type):
            forget_lookups(reduced)
        return reduced


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _code_of, (code.co_filename, make, arguments)


def _code_of(filename: str, make: Callable[..., CodeType], arguments: tuple[Any, ...]) -> CodeType:
    return make(*arguments).replace(co_filename=filename)


Pickler.dispatch_table = ChainMap({CodeType: _reduce_code}, cloudpickle.Pickler.dispatch_table)


def pickled(value: Any, protocol: int = 5, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """A value's pickle, as `cloudpickle.dumps` makes it."""
    with io.BytesIO() as file:
        Pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()


_registering = threading.RLock()  # cloudpickle's registry is the whole process's


def dumps(thing: Any, module: Any) -> bytes:
    """Pickle it for a worker.

    Args:
        thing: an app, a function, what holds one.
        module: the name of the one that defines it.
    """
    made = sys.modules.get(module)
    if made is None or is_by_value(module) or has_file(module):
        return pickled(thing)
    with _registering:
        cloudpickle.register_pickle_by_value(made)
        try:
            return pickled(thing)
        finally:
            cloudpickle.unregister_pickle_by_value(made)


def has_file(module: str) -> bool:
    """Whether an import would find it."""
    import importlib.util

    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def is_by_value(module: str) -> bool:
    """Whether what it defines is sent by value now; the user may have asked for that, too."""
    return module == "__main__" or module in cloudpickle.list_registry_pickle_by_value()


def _forget_in_child() -> None:
    """Whoever held it in the parent is not in the child."""
    global _registering
    _registering = threading.RLock()


os.register_at_fork(after_in_child=_forget_in_child)

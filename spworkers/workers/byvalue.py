"""Modules that exist in this process only, such as that of `runpy.run_path`: what they define goes by value, as what
`__main__` defines does."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import cloudpickle

__all__ = ["dumps", "has_file", "is_by_value"]

_registering = threading.RLock()  # cloudpickle's registry is the whole process's


def dumps(thing: Any, module: Any) -> bytes:
    """Pickle it for a worker.

    Args:
        thing: an app, a function, what holds one.
        module: the name of the one that defines it.
    """
    made = sys.modules.get(module)
    if made is None or is_by_value(module) or has_file(module):
        return _dumps(thing)
    with _registering:
        cloudpickle.register_pickle_by_value(made)
        try:
            return _dumps(thing)
        finally:
            cloudpickle.unregister_pickle_by_value(made)


def _dumps(thing: Any) -> bytes:
    data: bytes = cloudpickle.dumps(thing, 5)
    return data


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

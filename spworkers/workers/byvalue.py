"""Modules that exist in this process only, such as that of `runpy.run_path`: what they define goes by value."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["by_value", "has_file", "is_by_value"]


def has_file(module: str) -> bool:
    """Whether an import would find it; a module that was made by hand exists in this process only."""
    import importlib.util

    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@contextlib.contextmanager
def by_value(module: Any) -> Iterator[None]:
    """While it lasts, cloudpickle sends what a module defines as it does for `__main__`, if no worker could import it.

    Args:
        module: its name.
    """
    made = sys.modules.get(module)
    if made is None or module == "__main__" or has_file(module):
        yield
        return
    import cloudpickle

    cloudpickle.register_pickle_by_value(made)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(made)


def is_by_value(module: str) -> bool:
    """Whether what it defines is sent by value now."""
    if module == "__main__":
        return True
    import cloudpickle

    return module in cloudpickle.list_registry_pickle_by_value()

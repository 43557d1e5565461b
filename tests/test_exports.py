"""The public names."""

from __future__ import annotations

import inspect

import pytest

import spworkers
from spworkers import errors
from spworkers.attributes import OptionAttribute, SocketAttributes
from spworkers.errors import SPError

ERRORS = sorted(name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, SPError))


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_public(name: str) -> None:
    assert name in spworkers.__all__
    assert getattr(spworkers, name) is getattr(errors, name)


def test_every_public_name_is_there() -> None:
    missing = [name for name in spworkers.__all__ if not hasattr(spworkers, name)]
    assert not missing


def test_public_names_are_public_and_unique() -> None:
    assert not [name for name in spworkers.__all__ if name.startswith("_") and name != "__version__"]
    assert len(set(spworkers.__all__)) == len(spworkers.__all__)


def test_public_names_say_what_they_are() -> None:
    things = {name: getattr(spworkers, name) for name in spworkers.__all__}
    silent = [name for name, thing in things.items() if callable(thing) and not inspect.getdoc(thing)]
    assert not silent


def test_dir_shows_them() -> None:
    assert set(spworkers.__all__) <= set(dir(spworkers))


def test_sockets_do_not_hide_their_options() -> None:
    """An attribute of a socket class that is an option's is the option, not something else of the same name."""
    options = [name for name, value in vars(SocketAttributes).items() if isinstance(value, OptionAttribute)]
    things = [getattr(spworkers, name) for name in spworkers.__all__]
    hidden = [
        f"{cls.__name__}.{name}"
        for cls in things
        if inspect.isclass(cls) and issubclass(cls, SocketAttributes)
        for name in options
        if not isinstance(inspect.getattr_static(cls, name), OptionAttribute)
    ]
    assert not hidden

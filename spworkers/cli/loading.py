"""What a command line names by `module:attribute`, from the user's modules; those of the current folder are found."""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from typing import TypeVar

import spworkers
from spworkers.cli.failures import fail, show_traceback
from spworkers.errors import SPError
from spworkers.workers.app import App
from spworkers.workers.origin import find_as
from spworkers.workers.pipeline.pipeline import Pipeline

__all__ = ["load_app", "load_job"]

T = TypeVar("T")


def load_app(target: str) -> App:
    """The App of that name."""
    return _load(target, App, "calc:app")


def load_job(target: str) -> Pipeline:
    """The Pipeline of that name."""
    return _load(target, Pipeline, "words:job")


def _load(target: str, kind: type[T], example: str) -> T:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(len(sys.path) if _shadows_us(here) else 0, here)
    try:
        return find_as(target, kind, example)
    except SPError:
        raise
    except Exception as error:  # the user's module raised it
        show_traceback(error)
        fail(f"importing {target.partition(':')[0]} raised {type(error).__name__}")


def _shadows_us(folder: str) -> bool:
    """Whether it has another package `spworkers` than this one: our processes, which get this path, would import it.

    The folder of our sources, for instance, in which nothing is compiled.
    """
    spec = PathFinder.find_spec("spworkers", [folder])
    if spec is None or spec.origin is None:  # of a folder without __init__.py there is none, and it shadows nobody
        return False
    return os.path.realpath(spec.origin) != os.path.realpath(spworkers.__file__)

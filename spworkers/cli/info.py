"""`spworkers info`: what runs here, for people and for bug reports."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import socket
import sys
from typing import Any

import click

import spworkers
from spworkers.lookaround import processors

__all__ = ["info"]

_DEPENDENCIES = ("anyio", "click", "cloudpickle", "cryptography", "msgpack", "psutil", "rich", "uvloop", "websockets")
_MACHINES = "spworkers.protocol"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def info(as_json: bool) -> None:
    """Print versions, platform and what of it is used."""
    facts = collect()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for title, values in facts.items():
        if isinstance(values, dict):
            click.echo(f"{title}:")
            for name, value in values.items():
                click.echo(f"  {name:<22} {_shown(value)}")
        else:
            click.echo(f"{title:<24} {_shown(values)}")


def collect() -> dict[str, Any]:
    """The facts, as JSON has them."""
    return {
        "spworkers": spworkers.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processors": processors(),
        "features": _features(),
        "dependencies": {name: _version(name) for name in _DEPENDENCIES},
    }


def _features() -> dict[str, Any]:
    ring = importlib.import_module("spworkers.ring")
    return {
        "shared memory": "memfd" if hasattr(os, "memfd_create") else "unlinked file",
        "doorbells": "eventfd" if hasattr(os, "eventfd") or sys.platform.startswith("linux") else "pipe",
        "watching processes": "pidfd"
        if hasattr(os, "pidfd_open")
        else "kqueue"
        if sys.platform == "darwin"
        else "polling",
        "event loop": "asyncio on epoll of our own" if ring.POLLER else "uvloop" if _version("uvloop") else "asyncio",
        "IPv6": socket.has_ipv6,
        "contexts a socket": ring.CONTEXTS,
        "protocols compiled": _compiled(),
    }


def _compiled() -> bool:
    """Whether the protocol machines run compiled (mypyc) or interpreted; they are the same source."""
    module = importlib.import_module(f"{_MACHINES}.rep")
    return not str(module.__file__).endswith(".py")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shown(value: Any) -> str:
    if value is None:
        return "not installed"
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)

"""--cert, --key and --cacert of commands that listen or dial, named as in nngcat and macat."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from spworkers.cli.failures import told
from spworkers.cli.kinds import FILE

__all__ = ["tls_options"]

F = TypeVar("F", bound=Callable[..., Any])


def tls_options(command: F) -> F:
    """Give a command the options; it is called with `tls_config`, None if none of them was given."""

    @click.option("--cert", type=FILE, metavar="FILE", help="TLS: our certificate (spworkers cert makes it).")
    @click.option("--key", type=FILE, metavar="FILE", help="TLS: its private key.  [default: in --cert]")
    @click.option("--cacert", type=click.Path(path_type=Path), metavar="FILE", help="TLS: who vouches for the others.")
    @functools.wraps(command)
    def wrapped(*arguments: Any, cert: Path | None, key: Path | None, cacert: Path | None, **options: Any) -> Any:
        return command(*arguments, tls_config=_config(cert, key, cacert), **options)

    return cast("F", wrapped)


def _config(cert: Path | None, key: Path | None, cacert: Path | None) -> Any:
    if not (cert or key or cacert):
        return None
    from spworkers.tlsconfig import TLSConfig

    with told():
        config = TLSConfig(cert, key, cacert)
        config.check()
        return config

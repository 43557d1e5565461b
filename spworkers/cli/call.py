"""`spworkers call`: call one handler from a shell."""

from __future__ import annotations

import sys
from typing import Any

import click

from spworkers.cli.failures import exit_code, told
from spworkers.cli.kinds import Seconds
from spworkers.cli.rendering import argument, as_json, as_text
from spworkers.cli.tlsoptions import tls_options
from spworkers.errors import RemoteError, SPError
from spworkers.workers.caller import RemoteFunction
from spworkers.workers.client import Client
from spworkers.workers.stream import Stream

__all__ = ["call"]


# Unknown options are arguments: so -2 is a number.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("address")
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGUMENTS]...")
@click.option(
    "--keyword", "-k", "keywords", multiple=True, metavar="NAME=VALUE", help="A keyword argument; may be repeated."
)
@click.option("--timeout", type=Seconds(more=True), metavar="SECONDS", help="Wait no longer.  [default: for ever]")
@tls_options
@click.option("--json", "json_", is_flag=True, help='Print {"value": ...}, a line for each, or {"error": ...}.')
def call(
    address: str,
    name: str | None,
    arguments: tuple[str, ...],
    keywords: tuple[str, ...],
    timeout: float | None,
    json_: bool,
    tls_config: Any,
) -> None:
    """Call the handler NAME of the App that is served at ADDRESS, and print what it returns.

    ARGUMENTS are JSON, and what is no JSON is text: 2 is a number, "two" and two are text. Of a generator each item
    is printed when it comes; bytes as they are, with nothing behind them. Without a NAME it prints what is served
    there.
    """
    for word in (address, name or ""):
        if word.startswith("-"):
            raise click.NoSuchOption(word)
    given = _keywords(keywords)
    try:
        with Client(address, timeout=timeout, tls_config=tls_config) as client:
            if name is None:
                handlers = client.handlers()
                for line in [as_json({"value": handlers})] if json_ else map(_described, handlers):
                    click.echo(line)
            else:
                value = RemoteFunction(client, name)(*map(argument, arguments), **given)
                for item in value if isinstance(value, Stream) else [value]:
                    _print(as_json({"value": item}) if json_ else as_text(item))
    except SPError as error:
        if not json_:
            with told():
                raise
        click.echo(as_json({"error": _facts(error)}))
        raise click.exceptions.Exit(exit_code(error)) from None


def _print(text: str | bytes) -> None:
    if isinstance(text, bytes):
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        click.echo(text)


def _facts(error: SPError) -> dict[str, str]:
    more = {"type": error.type, "traceback": error.traceback} if isinstance(error, RemoteError) else {}
    return {"name": type(error).__name__, "message": error.message, **more}


def _keywords(given: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="--keyword")
        found[name] = argument(text)
    return found


def _described(handler: dict[str, str]) -> str:
    first, _, _ = handler["doc"].partition("\n")
    return f"{handler['name']}{handler['signature']}" + (f"\n    {first}" if first else "")

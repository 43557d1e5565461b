"""`spworkers cert`: an authority of one's own, certificates for servers and clients, their renewal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spworkers.cli.failures import fail, told
from spworkers.cli.kinds import whole
from spworkers.errors import BadValueError

if TYPE_CHECKING:  # with cryptography, which the other commands need not wait for
    from cryptography import x509

    from spworkers.certificates import Authority, Issued, Role

__all__ = ["cert"]

CA_CERT, CA_KEY = "ca.pem", "ca.key"

_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("certs"),
    show_default=True,
    help="Where the authority's files are, and new ones go.",
)
_force = click.option("--force", is_flag=True, help="Replace files that exist.")
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


def _days(default: int) -> Callable[[Any], Any]:
    return click.option(
        "--days", type=click.IntRange(1, 36500), default=default, show_default=True, help="How long it is valid."
    )


@click.group()
def cert() -> None:
    """Make certificates for tls+tcp:// and wss://.

    \b
    spworkers cert ca                                once: certs/ca.pem, certs/ca.key
    spworkers cert server example.org 192.0.2.1      for listeners: certs/example.org.pem, .key
    spworkers cert client alice                      for dialers that have to say who they are
    spworkers cert renew certs/example.org.pem       listeners take it up by themselves
    spworkers cert show --within 30 certs/*.pem      exit code 1 if one needs to be renewed

    Both ends get ca.pem; ca.key stays at home: who has it can make certificates for anybody.
    """


@cert.command()
@click.option("--name", default="spworkers CA", show_default=True, help="The authority's common name.")
@_days(3650)
@_folder
@_force
@_json
def ca(name: str, days: int, folder: Path, force: bool, as_json: bool) -> None:
    """Make an authority: DIR/ca.pem for everybody, DIR/ca.key for nobody else."""
    from spworkers.certificates import Authority, Issued

    with told():
        made = Authority.create(name, _end(days))
        _put(Issued(made.certificate, made.key), folder / CA_CERT, folder / CA_KEY, force=force, as_json=as_json)


@cert.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--both", is_flag=True, help="It may be a client's as well: a socket that listens and dials.")
@click.option("--out", help="Name of the files, without suffix.  [default: the first name]")
@_days(365)
@_folder
@_force
@_json
def server(
    names: tuple[str, ...], both: bool, out: str | None, days: int, folder: Path, force: bool, as_json: bool
) -> None:
    """Make a certificate for a listener at these NAMES: host names and IP addresses by which it is dialled."""
    _issue(names, "both" if both else "server", out, days, folder, force=force, as_json=as_json)


@cert.command()
@click.argument("name")
@click.option("--out", help="Name of the files, without suffix.  [default: the name]")
@_days(365)
@_folder
@_force
@_json
def client(name: str, out: str | None, days: int, folder: Path, force: bool, as_json: bool) -> None:
    """Make a certificate for a dialer: NAME is what a listener sees as pipe.tls_state.common_name."""
    _issue((name,), "client", out, days, folder, force=force, as_json=as_json)


@cert.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--new-key", is_flag=True, help="With a key of its own, beside it as .key, instead of the old one.")
@_days(365)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the authority's files are.  [default: where FILE is]",
)
@_json
def renew(file: Path, new_key: bool, days: int, folder: Path | None, as_json: bool) -> None:
    """Replace the certificate in FILE by one that is valid for longer; everything else stays as it is.

    Listeners of spworkers take it up at the next connection. Of the authority's own certificate everybody has to be
    given the new one before the old one's time is over.
    """
    from spworkers.certificates import read_certificate

    with told():
        old = read_certificate(file)
        made = _authority(folder or file.parent, "say where it is: --dir FOLDER").renew(
            old, _end(days), new_key=new_key
        )
        _put(made, file, file.with_suffix(".key"), force=True, as_json=as_json)


@cert.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--within", type=whole(0), metavar="DAYS", help="Exit code 1 if one ends within so many days.")
@_json
def show(files: tuple[Path, ...], within: int | None, as_json: bool) -> None:
    """Say whose certificates these are, for what, and until when."""
    from spworkers.certificates import read_certificate

    with told():
        found = [_facts(path, read_certificate(path)) for path in files]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for facts in found:
            _print(facts)
    late = [facts["file"] for facts in found if facts["days_left"] < (within or 0)]
    if late:
        over = "its time is over" if not within else f"less than {within} days are left"
        fail(f"{', '.join(late)}: {over}; spworkers cert renew FILE")


def _issue(
    names: tuple[str, ...], role: Role, out: str | None, days: int, folder: Path, *, force: bool, as_json: bool
) -> None:
    stem = out or re.sub(r"[^A-Za-z0-9._@-]", "_", names[0]).lstrip(".")  # no hidden file by accident
    with told():
        if stem in ("", ".", "..", "ca") or "/" in stem:
            raise BadValueError(f"{stem!r} is no name for these files; give another one: --out NAME")
        authority = _authority(folder)
        made = authority.issue(*names, role=role, end=_end(days))
        _put(made, folder / f"{stem}.pem", folder / f"{stem}.key", force=force, as_json=as_json)


def _authority(folder: Path, otherwise: str = "make one: spworkers cert ca") -> Authority:
    from spworkers.certificates import Authority

    if not (folder / CA_CERT).exists():
        raise BadValueError(f"there is no authority in {str(folder)!r} ({CA_CERT}); {otherwise}")
    return Authority.load(folder / CA_CERT, folder / CA_KEY)


def _put(made: Issued, cert_path: Path, key_path: Path, *, force: bool, as_json: bool) -> None:
    """Write the files, the key first: a certificate without its key is of use to nobody."""
    from spworkers.certificates import write_certificate, write_key

    paths = [key_path, cert_path] if made.key is not None else [cert_path]
    for path in paths:
        if path.exists() and not force:
            raise BadValueError(f"{str(path)!r} exists; --force replaces it")
    if made.key is not None:
        write_key(key_path, made.key)
    write_certificate(cert_path, made.certificate)
    facts = _facts(cert_path, made.certificate)
    if made.key is not None:
        facts["key"] = str(key_path)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for path in reversed(paths):
        click.echo(f"{path}" + ("  (key: keep it to yourself)" if path == key_path else ""))


def _facts(path: Path, certificate: x509.Certificate) -> dict[str, Any]:
    from cryptography.hazmat.primitives import hashes

    from spworkers.certificates import alternative_names, common_name, role_of

    end = certificate.not_valid_after_utc
    return {
        "file": str(path),
        "subject": certificate.subject.rfc4514_string(),
        "common_name": common_name(certificate),
        "names": list(alternative_names(certificate)),
        "role": role_of(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "from": certificate.not_valid_before_utc.isoformat(),
        "until": end.isoformat(),
        "days_left": round((end - datetime.now(timezone.utc)) / timedelta(days=1)),
        "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def _print(facts: dict[str, Any]) -> None:
    click.echo(f"{facts['file']}:")
    left = facts["days_left"]
    lines = {
        "subject": facts["subject"],
        "names": ", ".join(facts["names"]),
        "for": facts["role"],
        "issuer": facts["issuer"],
        "until": f"{facts['until'][:10]} ({f'{left} days' if left >= 0 else 'it is over'})",
        "sha-256": facts["fingerprint"],
    }
    for name, value in lines.items():
        if value:
            click.echo(f"  {name:<8} {value}")


def _end(days: int) -> datetime:
    return datetime.now(timezone.utc) + timedelta(days=days)

"""Certificates that TLS accepts, and those that it must not."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import spworkers as sp
from spworkers.testing import CertificateAuthority, CertificateFiles


@pytest.fixture(scope="module")
def ca() -> Iterator[CertificateAuthority]:
    with CertificateAuthority() as authority:
        yield authority


def shake(
    ca: CertificateAuthority,
    server: CertificateFiles,
    client: CertificateFiles | None = None,
    *,
    host: str = "localhost",
    demand: CertificateAuthority | None = None,
) -> None:
    """A TLS handshake in memory; raises what either side raises."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(server.cert, server.key)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_verify_locations(ca.cert)
    if demand is not None:
        theirs.verify_mode = ssl.CERT_REQUIRED
        theirs.load_verify_locations(demand.cert)
    if client is not None:
        ours.load_cert_chain(client.cert, client.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        ours.wrap_bio(to_client, to_server, server_hostname=host),
        theirs.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = {0, 1}
    for _ in range(10):
        for side in sorted(waiting):
            try:
                sides[side].do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                continue
    assert not waiting, "the handshake did not end"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_server_is_believed_by_all_its_names(ca: CertificateAuthority, host: str) -> None:
    shake(ca, ca.server(), host=host)


def test_and_by_no_other(ca: CertificateAuthority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="ostname mismatch"):
        shake(ca, ca.server("example.test"))


@pytest.mark.parametrize("wrong", ["expired", "not_yet"])
def test_out_of_time(ca: CertificateAuthority, wrong: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="expired" if wrong == "expired" else "not yet valid"):
        shake(ca, ca.server(**{wrong: True}))  # type: ignore[arg-type]


def test_another_authority_is_not_believed(ca: CertificateAuthority) -> None:
    with CertificateAuthority("another") as other, pytest.raises(ssl.SSLCertVerificationError):
        shake(other, ca.server())


def test_both_sides_show_theirs(ca: CertificateAuthority) -> None:
    shake(ca, ca.server(), ca.client("alice"), demand=ca)
    both = ca.issue("localhost")
    shake(ca, both, both, demand=ca)


@pytest.mark.parametrize("kind", ["a server's", "expired", "of another authority"])
def test_clients_that_are_turned_away(ca: CertificateAuthority, kind: str) -> None:
    with CertificateAuthority("another") as other:
        client = {
            "a server's": lambda: ca.server("bob"),
            "expired": lambda: ca.client("bob", expired=True),
            "of another authority": lambda: other.client("bob"),
        }[kind]()
        with pytest.raises(ssl.SSLError):
            shake(ca, ca.server(), client, demand=ca)


def test_keys_are_for_their_owner_and_everything_goes_with_the_authority() -> None:
    with CertificateAuthority() as ca:
        files = ca.client()
        assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
        assert files.cert.parent == files.key.parent == ca.cert.parent == ca.folder
        assert repr(ca) == f"<CertificateAuthority 'spworkers test CA': 1 issued, in {ca.folder}>"
    assert not ca.folder.exists()
    ca.close()


def test_a_folder_of_ones_own_stays(tmp_path: Path) -> None:
    with CertificateAuthority(folder=tmp_path / "new") as ca:
        ca.server()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"ca.pem", "server-1.pem", "server-1.key"}


@pytest.mark.parametrize("names", [(), ("",), ("ö.example",), ("x" * 200,)])
def test_names_that_no_certificate_can_have(ca: CertificateAuthority, names: tuple[str, ...]) -> None:
    with pytest.raises(sp.BadValueError, match="name"):
        ca.issue(*names)

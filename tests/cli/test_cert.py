"""`spworkers cert`: what it makes can be used, keys are their owner's only, mistakes are said in words."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import spworkers as sp
from spworkers.cli.main import main
from spworkers.testing import CertificateAuthority


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["cert", *map(str, arguments)])


def made(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def facts(*arguments: object) -> Any:
    return json.loads(made(*arguments, "--json"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_from_nothing_to_mutual_authentication(folder: Path) -> None:
    made("ca")
    made("server", "localhost", "127.0.0.1")
    made("client", "alice")
    at = folder / "certs"
    server = sp.TLSConfig(at / "localhost.pem", at / "localhost.key", at / "ca.pem")
    client = sp.TLSConfig(at / "alice.pem", at / "alice.key", at / "ca.pem")
    with sp.Pull(listen="tls+tcp://127.0.0.1:0", tls_config=server) as pull:
        with sp.Push(dial=pull.listeners[0].address, tls_config=client) as push:
            push.send(b"hello")
            message = pull.recv_msg(timeout=20)
            assert message.body == b"hello"
            assert message.pipe is not None
            assert message.pipe.tls_state.common_name == "alice"
            assert push.pipes[0].tls_state.names == ("localhost", "127.0.0.1")


def test_keys_are_for_their_owner_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        output = made("ca", "--dir", "x/y") + made("client", "bob", "--dir", "x/y")
    finally:
        os.umask(before)
    at = folder / "x/y"
    assert mode(at) == 0o700
    assert [mode(at / name) for name in ("ca.key", "bob.key", "ca.pem", "bob.pem")] == [0o600, 0o600, 0o644, 0o644]
    assert sorted(path.name for path in at.iterdir()) == ["bob.key", "bob.pem", "ca.key", "ca.pem"]
    assert "x/y/bob.key  (key: keep it to yourself)" in output


def test_as_json(folder: Path) -> None:
    authority = facts("ca", "--name", "Our CA", "--days", 100)
    assert (authority["role"], authority["common_name"], authority["days_left"]) == ("authority", "Our CA", 100)
    server = facts("server", "*.example.org", "::1", "--both", "--out", "web", "--days", 7)
    assert server["names"] == ["*.example.org", "::1"]
    assert (server["role"], server["issuer"], server["days_left"]) == ("both", "CN=Our CA", 7)
    assert (server["file"], server["key"]) == ("certs/web.pem", "certs/web.key")
    client = facts("client", "alice@example.org")
    assert (client["role"], client["names"], client["file"]) == (
        "client",
        ["alice@example.org"],
        "certs/alice@example.org.pem",
    )
    shown = facts("show", "certs/web.pem", "certs/ca.pem")
    assert shown == [{name: value for name, value in each.items() if name != "key"} for each in (server, authority)]
    certificate = x509.load_pem_x509_certificate((folder / "certs/web.pem").read_bytes())
    assert server["until"] == certificate.not_valid_after_utc.isoformat()
    assert facts("server", "*.example.net")["file"] == "certs/_.example.net.pem"


def public_key(path: Path) -> bytes:
    key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_renewal(folder: Path) -> None:
    made("ca")
    old = facts("server", "localhost", "127.0.0.1", "--days", 1)
    cert, key = folder / "certs/localhost.pem", folder / "certs/localhost.key"
    before = public_key(cert), key.read_bytes()
    new = facts("renew", cert, "--days", 90)
    assert (new["days_left"], new["names"], new["subject"], new["role"]) == (90, old["names"], old["subject"], "server")
    assert new["fingerprint"] != old["fingerprint"]
    assert (public_key(cert), key.read_bytes()) == before
    sp.TLSConfig(cert, key, folder / "certs/ca.pem").check()
    facts("renew", cert, "--new-key")
    assert public_key(cert) != before[0]
    assert mode(key) == 0o600
    sp.TLSConfig(cert, key).check()


def test_an_authority_is_renewed_and_what_it_vouched_for_stays_good(folder: Path) -> None:
    made("ca", "--days", 1)
    made("client", "alice")
    assert facts("renew", "certs/ca.pem", "--days", 1000)["days_left"] == 1000
    at = folder / "certs"
    alice = x509.load_pem_x509_certificate((at / "alice.pem").read_bytes())
    alice.verify_directly_issued_by(x509.load_pem_x509_certificate((at / "ca.pem").read_bytes()))
    made("client", "bob")
    result = run("renew", "certs/ca.pem", "--new-key")
    assert result.exit_code == 2
    assert "an authority with a new key is another one" in result.output


def test_show(folder: Path) -> None:
    made("ca")
    made("server", "localhost", "127.0.0.1", "--days", 20)
    text = made("show", "certs/localhost.pem")
    for words in ("CN=localhost", "localhost, 127.0.0.1", "for      server", "issuer   CN=spworkers CA", "(20 days)"):
        assert words in text
    assert run("show", "--within", 19, "certs/localhost.pem").exit_code == 0
    result = run("show", "--within", 30, "certs/localhost.pem", "certs/ca.pem")
    assert result.exit_code == 1
    assert "certs/localhost.pem: less than 30 days are left; spworkers cert renew" in result.output
    with CertificateAuthority() as ca:
        late = ca.server(expired=True)
        result = run("show", late.cert)
        assert result.exit_code == 1
        assert "(it is over)" in result.output
        assert "its time is over" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ca"], 2, "'certs/ca.key' exists; --force replaces it"),
        (["server", "here"], 2, "'certs/here.key' exists"),
        (["server"], 2, "Missing argument 'NAMES"),
        (
            ["server", "x", "--dir", "nowhere"],
            2,
            "make one: spworkers cert ca",
        ),
        (["server", "x", "--dir", "wrong"], 2, "this is not the key of the authority 'spworkers CA'"),
        (["server", "x", "--dir", "leaf"], 2, "the certificate of 'here' may not sign others"),
        (["server", "x", "--dir", "junk"], 2, "'junk/ca.pem' holds no certificate in PEM"),
        (["server", "x", "--dir", "keyless"], 2, "'keyless/ca.key' cannot be read: No such file"),
        (["server", "x", "--dir", "badkey"], 2, "'badkey/ca.key' holds no private key in PEM"),
        (["server", "x", "--out", "ca"], 2, "'ca' is no name for these files"),
        (["server", "x", "--out", "a/b"], 2, "'a/b' is no name for these files"),
        (["client", "x" * 100, "--out", "long"], 2, "cannot be a certificate's common name"),
        (["server", "300.1.2.3"], 2, "a name that ends in a number is an IPv4 address, and this is none"),
        (["client", "..."], 2, "'' is no name for these files"),
        (["server", "bücher"], 2, "neither a host's name nor an IP address"),
        (["server", "here", "ex ample"], 2, "'ex ample' is neither a host's name nor an IP address"),
        (["server", "a..b"], 2, "'a..b' is neither a host's name nor an IP address"),
        (["server", "here", "b-.c", "--both"], 2, "'b-.c' is neither a host's name nor an IP address"),
        (["server", "*.a.*"], 2, "'*.a.*' is neither a host's name nor an IP address"),
        (["server", "x", "--days", "0"], 2, "Invalid value for '--days'"),
        (["renew", "foreign.pem", "--dir", "certs"], 2, "is not of the authority 'spworkers CA'"),
        (["renew", "none.pem", "--dir", "certs"], 2, "'none.pem' cannot be read: No such file"),
        (["renew", "foreign.pem", "--dir", "nowhere"], 2, "say where it is: --dir FOLDER"),
        (["show", "none.pem"], 2, "'none.pem' cannot be read: No such file"),
        (["ca", "--dir", "junk/ca.pem/x"], 2, "cannot be written: Not a directory"),
    ],
)
def test_mistakes(mistaken: Path, arguments: list[str], code: int, words: str) -> None:
    result = run(*arguments)
    assert words in result.output
    assert result.exit_code == code


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with everything that can be wrong."""
    at = tmp_path_factory.mktemp("mistakes")
    here = os.getcwd()
    os.chdir(at)
    try:
        made("ca")
        made("ca", "--dir", "other")
        made("server", "here")
    finally:
        os.chdir(here)
    text = {path: path.read_bytes() for path in (at / "certs/ca.pem", at / "other/ca.key", at / "certs/here.pem")}
    ca, key, leaf = text.values()
    contents = {
        "wrong": (ca, key),
        "leaf": (leaf, (at / "certs/here.key").read_bytes()),
        "junk": (b"junk", key),
        "keyless": (ca, None),
        "badkey": (ca, b"junk"),
    }
    for name, (its_cert, its_key) in contents.items():
        (at / name).mkdir()
        (at / name / "ca.pem").write_bytes(its_cert)
        if its_key is not None:
            (at / name / "ca.key").write_bytes(its_key)
    with CertificateAuthority("foreign") as foreign:
        (at / "foreign.pem").write_bytes(foreign.client("eve").cert.read_bytes())
    return at


@pytest.fixture
def mistaken(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(prepared)
    return prepared


def test_a_server_whose_name_is_too_long_for_a_common_name(folder: Path) -> None:
    made("ca")
    name = "a" * 60 + ".example.org"
    found = facts("server", name, "127.0.0.1", "--out", "long")
    assert (found["common_name"], found["names"], found["role"]) == ("", [name, "127.0.0.1"], "server")
    assert facts("renew", "certs/long.pem")["names"] == found["names"]
    config = sp.TLSConfig("certs/long.pem", "certs/long.key")
    with sp.Rep(listen="tls+tcp://127.0.0.1:0", tls_config=config) as rep:
        client = sp.TLSConfig(ca="certs/ca.pem", server_name=name)
        with sp.Req(dial=rep.listeners[0].address, tls_config=client, send_deadline=20) as req:
            req.send(b"x")
            assert rep.recv(timeout=20) == b"x"


def test_no_hidden_file_is_made_by_accident(folder: Path) -> None:
    made("ca")
    made("client", "../../evil")
    assert sorted(each.name for each in Path("certs").iterdir()) == ["_.._evil.key", "_.._evil.pem", "ca.key", "ca.pem"]


def test_force(folder: Path) -> None:
    first = facts("ca")
    assert facts("ca", "--force")["fingerprint"] != first["fingerprint"]


def test_help_says_how_it_goes() -> None:
    text = made("--help")
    for command in ("ca", "server", "client", "renew", "show"):
        assert f"spworkers cert {command}" in text

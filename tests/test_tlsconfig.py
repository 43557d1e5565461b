"""TLSConfig: what is wrong with it is said when it is made or set, in words, and its password never."""

from __future__ import annotations

import os
import pickle
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import spworkers as sp
from spworkers.options import Place, as_wire, validate
from spworkers.testing import CertificateAuthority, CertificateFiles
from spworkers.tlsconfig import TLSConfig

LISTENER = Place("listener", "tls+tcp")


@pytest.fixture(scope="module")
def ca() -> Iterator[CertificateAuthority]:
    with CertificateAuthority() as authority:
        yield authority


@pytest.fixture(scope="module")
def files(ca: CertificateAuthority) -> CertificateFiles:
    return ca.server()


def encrypted(key: Path, into: Path, password: bytes) -> Path:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    into.write_bytes(
        loaded.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(password))
    )
    return into


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cert": 5}, "cert=5; the path of a PEM file"),
        ({"cert": b"x"}, "cert=b'x'; the path"),
        ({"cert": ""}, "cert=''"),
        ({"ca": 5}, "ca=5"),
        ({"ca": ["x", None, 5]}, "ca=5"),
        ({"ca": []}, r"ca=\[\] names no authority"),
        ({"ca": ()}, r"ca=\(\) names no authority"),
        ({"ca": [None]}, "names no authority"),
        ({"ca": ""}, "ca=''"),
        ({"ca": b""}, "ca=b''"),
        ({"key": "x"}, "without cert="),
        ({"key_password": "x"}, "key_password= without cert="),
        ({"cert": "x", "key_password": 5}, "key_password is neither"),
        ({"verify_peer": "always"}, "verify_peer='always'; True, False, 'optional' or None"),
        ({"server_name": 5}, "server_name=5"),
        ({"server_name": ""}, "check_hostname=False"),
        ({"server_name": "a\0b"}, r"server_name='a\\x00b' is no host's name"),
        ({"server_name": "a" * 64 + ".example"}, "is no host's name"),
        ({"server_name": ".localhost"}, "server_name='.localhost' is no host's name"),
        ({"server_name": "a." * 140 + "a"}, "is no host's name"),
        ({"server_name": "\udcff"}, "is no host's name"),
        ({"check_hostname": None}, "check_hostname=None; True or False"),
        ({"ciphers": 5}, "ciphers=5"),
        ({"minimum_version": "1.1"}, r"minimum_version='1.1'; there are 1.2 and 1.3"),
        ({"minimum_version": None}, "minimum_version=None"),
        ({"maximum_version": 1.3}, "maximum_version=1.3"),
        ({"minimum_version": "1.3", "maximum_version": "1.2"}, "is below"),
    ],
)
def test_values_that_do_not_fit_are_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(sp.BadValueError, match=says):
        TLSConfig(**wrong)


def test_paths_are_of_the_working_directory_of_this_moment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = TLSConfig("a.pem", Path("b.key"), ["c.pem", "/d.pem"])
    assert config.files == (f"{tmp_path}/a.pem", f"{tmp_path}/b.key", f"{tmp_path}/c.pem", "/d.pem")
    assert TLSConfig(ca="c.pem") == TLSConfig(ca=[tmp_path / "c.pem"])


def test_it_crosses_as_plain_data(files: CertificateFiles, ca: CertificateAuthority) -> None:
    config = TLSConfig(files.cert, files.key, ca.cert, verify_peer="optional", key_password=b"x", minimum_version="1.3")
    wire = config.to_wire()
    assert wire == {
        "cert": str(files.cert),
        "key": str(files.key),
        "ca": [str(ca.cert)],
        "verify_peer": "optional",
        "key_password": b"x",
        "minimum_version": "1.3",
    }
    assert TLSConfig.from_wire(wire) == config == pickle.loads(pickle.dumps(config))
    assert TLSConfig().to_wire() == {}
    with pytest.raises(sp.BadValueError, match=r"there is no 'certs'; there are ca, cert,"):
        TLSConfig.from_wire({"certs": "x"})


def test_the_password_is_never_shown(files: CertificateFiles, tmp_path: Path) -> None:
    key = encrypted(files.key, tmp_path / "k", b"sesame")
    config = TLSConfig(files.cert, key, key_password="wrong sesame")
    with pytest.raises(sp.BadValueError) as caught:
        config.check()
    for text in (repr(config), str(config), str(caught.value), repr(caught.value)):
        assert "sesame" not in text
    assert "is not decrypted by this key_password" in str(caught.value)
    TLSConfig(files.cert, key, key_password="sesame").check()
    TLSConfig(files.cert, key, key_password=b"sesame").check()


def test_an_encrypted_key_without_a_password_does_not_ask_the_terminal(files: CertificateFiles, tmp_path: Path) -> None:
    key = encrypted(files.key, tmp_path / "k", b"sesame")
    with pytest.raises(sp.BadValueError, match=r"is encrypted; give its key_password="):
        TLSConfig(files.cert, key).check()
    with pytest.raises(sp.BadValueError, match="key_password does not fit"):
        TLSConfig(files.cert, key, key_password="x" * 2000).check()


class TestFiles:
    def test_good_ones(self, files: CertificateFiles, ca: CertificateAuthority, tmp_path: Path) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
        for config in (
            TLSConfig(),
            TLSConfig(files.cert, files.key),
            TLSConfig(both),
            TLSConfig(ca=[ca.cert, ca.cert]),
        ):
            config.check()
        TLSConfig(ca=tmp_path).check()  # a folder of hashed names; that it has none is nobody's mistake

    def test_what_is_wrong_with_which(self, files: CertificateFiles, ca: CertificateAuthority, tmp_path: Path) -> None:
        junk = tmp_path / "junk"
        junk.write_text("no PEM")
        cut = tmp_path / "cut"
        cut.write_bytes(files.cert.read_bytes()[:100])
        other = ca.client("other")
        cases = [
            (TLSConfig(tmp_path / "none"), r"cert '.*none' cannot be read: No such file"),
            (TLSConfig(files.cert, tmp_path / "none"), r"key '.*none' cannot be read: No such file"),
            (TLSConfig(ca=tmp_path / "none"), r"ca '.*none' cannot be read: No such file"),
            (TLSConfig(tmp_path), "is a folder, not a file"),
            (TLSConfig(junk), r"cert '.*junk' holds no certificate in PEM"),
            (TLSConfig(files.cert, junk), r"key '.*junk' holds no private key in PEM"),
            (TLSConfig(files.cert), "holds no private key"),
            (TLSConfig(ca=junk), r"ca '.*junk' holds no certificates in PEM"),
            (TLSConfig(cut, files.key), "cannot be used"),
            (TLSConfig(files.cert, other.key), rf"key '{other.key}' is not the key of cert '{files.cert}'"),
            (TLSConfig(ciphers="NONESUCH"), "ciphers='NONESUCH': OpenSSL knows none"),
        ]
        for config, says in cases:
            with pytest.raises(sp.BadValueError, match=says):
                config.check()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_one_that_may_not_be_read(self, files: CertificateFiles, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(files.key.read_bytes())
        secret.chmod(0)
        with pytest.raises(sp.BadValueError, match="cannot be read: Permission denied"):
            TLSConfig(files.cert, secret).check()


class TestOption:
    def test_it_is_checked_when_it_is_set(self, files: CertificateFiles, tmp_path: Path) -> None:
        with pytest.raises(
            sp.BadValueError, match=r"TLS-CONFIG cannot be used: TLSConfig: cert '.*none' cannot be read"
        ):
            validate("TLS-CONFIG", TLSConfig(tmp_path / "none"), LISTENER)
        config = TLSConfig(files.cert, files.key)
        assert validate("TLS-CONFIG", config, LISTENER) is config
        assert as_wire(config) == {"cert": str(files.cert), "key": str(files.key)}

    def test_keywords_in_a_mapping_will_do(self, files: CertificateFiles) -> None:
        given = {"cert": str(files.cert), "key": str(files.key)}
        assert validate("TLS-CONFIG", given, LISTENER) == TLSConfig(files.cert, files.key)
        with pytest.raises(sp.BadValueError, match="TLS-CONFIG cannot be used: TLSConfig: there is no 'certs'"):
            validate("TLS-CONFIG", {"certs": "x"}, LISTENER)
        with pytest.raises(sp.BadValueError, match="this one is empty"):
            validate("TLS-CONFIG", {}, LISTENER)

    def test_a_context_cannot_cross(self) -> None:
        with pytest.raises(sp.BadValueError, match="cannot cross to the I/O process"):
            validate("TLS-CONFIG", ssl.create_default_context(), LISTENER)


class TestContexts:
    def test_a_dialer_verifies_unless_told_not_to(self, ca: CertificateAuthority) -> None:
        for config in (
            TLSConfig(ca=ca.cert),
            TLSConfig(),
            TLSConfig(verify_peer=True),
            TLSConfig(verify_peer="optional"),
        ):
            context = config.client_context()
            assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        context = TLSConfig(ca=ca.cert, check_hostname=False).client_context()
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
        context = TLSConfig(verify_peer=False).client_context()
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)

    def test_the_authorities_of_a_dialer(self, ca: CertificateAuthority) -> None:
        own = TLSConfig(ca=ca.cert).client_context().get_ca_certs(binary_form=True)
        assert [x509.load_der_x509_certificate(der) for der in own] == [
            x509.load_pem_x509_certificate(ca.cert.read_bytes())
        ]

    def test_a_listener_verifies_whom_an_authority_is_named_for(
        self, files: CertificateFiles, ca: CertificateAuthority
    ) -> None:
        for verify, with_ca, mode in [
            (None, False, ssl.CERT_NONE),
            (None, True, ssl.CERT_REQUIRED),
            (True, True, ssl.CERT_REQUIRED),
            ("optional", True, ssl.CERT_OPTIONAL),
            (False, True, ssl.CERT_NONE),
        ]:
            config = TLSConfig(files.cert, files.key, ca.cert if with_ca else None, verify_peer=verify)  # type: ignore[arg-type]
            assert config.server_context().verify_mode == mode

    def test_a_listener_needs_a_certificate_and_knows_whose_word_counts(self, files: CertificateFiles) -> None:
        with pytest.raises(sp.TLSNoCertError, match="spworkers cert"):
            TLSConfig().server_context()
        for verify in (True, "optional"):
            with pytest.raises(sp.BadValueError, match="without ca="):
                TLSConfig(files.cert, files.key, verify_peer=verify).server_context()  # type: ignore[arg-type]

    def test_versions_and_what_is_never_spoken(self, files: CertificateFiles) -> None:
        config = TLSConfig(files.cert, files.key, minimum_version="1.3", maximum_version="1.3")
        context = config.server_context()
        assert (context.minimum_version, context.maximum_version) == (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
        context = TLSConfig(files.cert, files.key).server_context()
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.num_tickets == 0

    def test_ciphers(self) -> None:
        names = [
            each["name"] for each in TLSConfig(ciphers="ECDHE-RSA-AES128-GCM-SHA256").client_context().get_ciphers()
        ]
        assert "ECDHE-RSA-AES128-GCM-SHA256" in names
        assert "ECDHE-RSA-AES256-GCM-SHA384" not in names

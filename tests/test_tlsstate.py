"""What is told of a peer's certificate, and of one that only OpenSSL can read."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from spworkers.errors import GarbledError
from spworkers.testing import CertificateAuthority
from spworkers.tlsstate import TLSState

pytestmark = pytest.mark.once

READ = ("certificate", "subject", "issuer", "common_name", "names")


def state_of(der: bytes) -> TLSState:
    return TLSState("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, "", False, der)


@pytest.fixture(scope="module")
def der() -> bytes:
    with CertificateAuthority() as ca:
        pem = Path(ca.client("alice").cert).read_bytes()
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def test_a_peer_with_a_certificate_and_one_without(der: bytes) -> None:
    state = state_of(der)
    assert (state.common_name, state.subject, state.names) == ("alice", "CN=alice", ("alice",))
    assert len(state.fingerprint) == 64
    nobody = state_of(b"")
    assert [getattr(nobody, name) for name in READ] == [None, "", "", "", ()]
    assert nobody.fingerprint == ""


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("how", ["cut off", "no certificate", "a version that there is not"])
def test_what_cannot_be_read_is_garbled(der: bytes, how: str, name: str) -> None:
    version = der.index(b"\xa0\x03\x02\x01\x02")  # [0] { INTEGER 2 }: version 3
    words = {
        "cut off": der[:-1],
        "no certificate": b"\x30\x00",
        "a version that there is not": der[: version + 4] + b"\x07" + der[version + 5 :],
    }
    with pytest.raises(GarbledError, match="the peer's certificate cannot be read: ") as caught:
        getattr(state_of(words[how]), name)
    assert caught.value.__cause__ is not None


def test_two_extensions_of_one_kind_are_garbled(der: bytes) -> None:
    usage, names = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d11")
    state = state_of(der.replace(usage, names))
    assert state.common_name == "alice"
    with pytest.raises(GarbledError):
        assert state.names

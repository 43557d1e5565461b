"""What a TLS handshake agreed upon, as a pipe tells of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from spworkers.errors import GarbledError

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["TLSState"]

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class TLSState:
    """The option TLS-STATE of a pipe: `pipe.tls_state`. It is complete when a hook is told of ATTACHING.

    Attributes:
        version: `"TLSv1.3"` or `"TLSv1.2"`.
        cipher: its name, as OpenSSL has it: `"TLS_AES_256_GCM_SHA384"`.
        bits: of the cipher's key.
        server_name: the name that we demanded of the listener; empty at a listener's pipe.
        verified: whether the peer has a certificate, and an authority of TLSConfig's vouches for it. Only then do
            `subject` and `names` mean anything.
        der: the peer's certificate, DER; empty if it has none.
    """

    version: str
    cipher: str
    bits: int
    server_name: str
    verified: bool
    der: bytes = field(repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> TLSState:
        """From what the I/O process tells."""
        return cls(
            version=wire["version"],
            cipher=wire["cipher"],
            bits=wire["bits"],
            server_name=wire["server_name"],
            verified=wire["verified"],
            der=wire["certificate"],
        )

    @functools.cached_property
    def certificate(self) -> x509.Certificate | None:
        """The peer's certificate, as `cryptography` has it; None if it has none.

        Raises:
            GarbledError: it cannot be read, though OpenSSL could; so do `subject`, `issuer`, `common_name`, `names`.
        """
        if not self.der:
            return None
        from cryptography import x509

        return _read(x509.load_der_x509_certificate, self.der)

    @property
    def subject(self) -> str:
        """Whose certificate it is, as RFC 4514 writes it: `"CN=alice,O=Example"`; empty if the peer has none."""
        return "" if self.certificate is None else _read(lambda it: it.subject.rfc4514_string(), self.certificate)

    @property
    def issuer(self) -> str:
        """Who made it, likewise."""
        return "" if self.certificate is None else _read(lambda it: it.issuer.rfc4514_string(), self.certificate)

    @property
    def common_name(self) -> str:
        """The subject's common name (the first one, if there are several); empty if there is none."""
        if self.certificate is None:
            return ""
        from spworkers.certificates import common_name

        return _read(common_name, self.certificate)

    @property
    def names(self) -> tuple[str, ...]:
        """The subject alternative names that are text: host names, IP addresses, e-mail addresses, URIs."""
        if self.certificate is None:
            return ()
        from spworkers.certificates import alternative_names

        return _read(alternative_names, self.certificate)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate in hexadecimal, to know one single certificate by; empty if there is none."""
        import hashlib

        return hashlib.sha256(self.der).hexdigest() if self.der else ""

    def __str__(self) -> str:
        return f"{self.version} {self.cipher}"


def _read(reader: Callable[[S], T], source: S) -> T:
    try:
        return reader(source)
    except Exception as error:  # cryptography's have nothing in common, not even ValueError
        raise GarbledError(f"the peer's certificate cannot be read: {error}") from error

"""Certificates for tests: an authority of one's own, and what it vouches for, also what nobody should accept.

They are made on the spot, with keys of this moment, in a folder that goes with the authority. They protect nothing.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spworkers.closing import Closing
from spworkers.errors import BadValueError

__all__ = ["CertificateAuthority", "CertificateFiles"]

Role = Literal["server", "client", "both"]

_USAGES = {
    "server": [ExtendedKeyUsageOID.SERVER_AUTH],
    "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "both": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
}
_SKEW = timedelta(hours=1)  # clocks differ
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate and its key, as PEM files: `cert`, the certificate alone, and `key`, for its owner's eyes only."""

    cert: Path
    key: Path


class CertificateAuthority(Closing):
    """A CA for one test, or for a whole run of them.

        with CertificateAuthority() as ca:
            server = ca.server("localhost", "127.0.0.1")
            client = ca.client("alice")
            late = ca.server("localhost", expired=True)
            context.load_verify_locations(ca.cert)

    Args:
        name: its common name.
        folder: where the files are written; None: a temporary folder, which `close` removes.

    `cert` is its certificate, a PEM file; `folder` is where everything is.
    """

    def __init__(self, name: str = "spworkers test CA", *, folder: str | os.PathLike[str] | None = None) -> None:
        self._own = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="spworkers-ca-") if folder is None else folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._count = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = _named(name)
        now = datetime.now(timezone.utc)
        builder = _builder(self._subject, self._subject, self._key, now - _SKEW, now + 30 * _DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
        )
        self.cert = self.folder / "ca.pem"
        self.cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str, expired: bool = False, not_yet: bool = False) -> CertificateFiles:
        """A server's certificate.

        Args:
            names: host names and IP addresses that it is good for, as subject alternative names; default: localhost,
                127.0.0.1 and ::1.
            expired: its time was over yesterday.
            not_yet: its time begins tomorrow.
        """
        return self.issue(
            *(names or ("localhost", "127.0.0.1", "::1")), role="server", expired=expired, not_yet=not_yet
        )

    def client(self, name: str = "client", *, expired: bool = False, not_yet: bool = False) -> CertificateFiles:
        """A client's certificate, with this common name.

        Args:
            name: also its only subject alternative name.
            expired, not_yet: as in `server`.
        """
        return self.issue(name, role="client", expired=expired, not_yet=not_yet)

    def issue(self, *names: str, role: Role = "both", expired: bool = False, not_yet: bool = False) -> CertificateFiles:
        """A certificate for these names; the first one is its common name.

        Args:
            names: host names and IP addresses.
            role: whether it may be a server's, a client's, or both.
            expired, not_yet: as in `server`.

        Raises:
            BadValueError: there is no name, or one that no certificate can have.
        """
        if not names:
            raise BadValueError("a certificate needs a name: issue('localhost')")
        now = datetime.now(timezone.utc)
        begin, end = (now - 10 * _DAY, now - _DAY) if expired else (now - _SKEW, now + 10 * _DAY)
        if not_yet:
            begin, end = now + _DAY, now + 10 * _DAY
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(names[0]), self._subject, key, begin, end)
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(_USAGES[role]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        self._count += 1
        files = CertificateFiles(self.folder / f"{role}-{self._count}.pem", self.folder / f"{role}-{self._count}.key")
        files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(files.key, key)
        return files

    def close(self) -> None:
        """Remove the files, if the folder is a temporary one. Harmless when that was done already."""
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<CertificateAuthority {self.name!r}: {self._count} issued, in {self.folder}>"


def _named(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as problem:
        raise BadValueError(f"{name!r} cannot be a certificate's common name: {problem}") from problem


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as problem:
        raise BadValueError(f"{name!r} is neither a host's name nor an IP address: {problem}") from problem


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    # Nobody else may read it at any moment, so not write_bytes and chmod.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)

"""Certificates of one's own: an authority, and what it vouches for (X.509, RFC 5280).

For two ends of one's own a private authority is better than a public one: it vouches for exactly those who belong
there. Keys are on the curve P-256, which every TLS library has.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final, Literal, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spworkers.errors import BadValueError

__all__ = [
    "Authority",
    "Issued",
    "Role",
    "alternative_names",
    "common_name",
    "read_certificate",
    "role_of",
    "write_certificate",
    "write_key",
]

Role = Literal["server", "client", "both"]
Key = ec.EllipticCurvePrivateKey

SKEW: Final = timedelta(hours=1)
"""By so much a certificate begins in the past: clocks differ."""

LONGEST_COMMON_NAME: Final = 64
"""Characters of a common name at most (RFC 5280, A.1: ub-common-name)."""

_USAGES: Final = {
    "server": [ExtendedKeyUsageOID.SERVER_AUTH],
    "client": [ExtendedKeyUsageOID.CLIENT_AUTH],
    "both": [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
}


@dataclass(frozen=True)
class Issued:
    """A certificate, and its key: None if that is somewhere else."""

    certificate: x509.Certificate
    key: Key | None


class Authority:
    """Who vouches for others: a certificate that signs certificates, and its key.

    Args:
        certificate: of the authority.
        key: its key.

    Raises:
        BadValueError: it is no authority's, or the key is another one's.
    """

    def __init__(self, certificate: x509.Certificate, key: Key) -> None:
        self.certificate = certificate
        self._key = key
        if not _may_sign(certificate):
            raise BadValueError(f"the certificate of {common_name(certificate)!r} may not sign others (no CA)")
        if _public_bytes(certificate.public_key()) != _public_bytes(key.public_key()):
            raise BadValueError(f"this is not the key of the authority {common_name(certificate)!r}")

    @classmethod
    def create(cls, name: str, end: datetime, *, begin: datetime | None = None) -> Authority:
        """A new authority, which vouches for itself.

        Args:
            name: its common name.
            end: when its time is over.
            begin: when it begins; None: now.

        Raises:
            BadValueError: no certificate can have that name.
        """
        key = _new_key()
        return cls(_self_signed(_named(name), key, begin or _now() - SKEW, end), key)

    @classmethod
    def load(cls, cert: Path, key: Path) -> Authority:
        """An authority from its files.

        Raises:
            BadValueError: they cannot be read, or are none of an authority.
        """
        return cls(read_certificate(cert), _read_key(key))

    @property
    def key(self) -> Key:
        """Its key. Whoever has it can vouch for anybody."""
        return self._key

    def issue(self, *names: str, role: Role, end: datetime, begin: datetime | None = None) -> Issued:
        """A certificate for these names.

        Args:
            names: the first one is its common name, but for a server's of more than 64 characters, which no common
                name can have; all are alternative names: host names, IP addresses, e-mail addresses.
            role: whether it may be a server's, a client's, or both.
            end, begin: as in `create`.

        Raises:
            BadValueError: there is no name, or one that no certificate can have; or no such role.
        """
        if not names:
            raise BadValueError("a certificate needs a name: issue('localhost')")
        if role not in get_args(Role):
            raise BadValueError(f"role {role!r}: there are {', '.join(get_args(Role))}")
        nameless = role == "server" and len(names[0]) > LONGEST_COMMON_NAME  # who dials it asks the alternative names
        subject = x509.Name([]) if nameless else _named(names[0])
        alternatives = x509.SubjectAlternativeName([_alternative(name, dialled=role != "client") for name in names])
        key = _new_key()
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (alternatives, nameless),  # critical where nothing else says whose it is (RFC 5280, 4.1.2.6)
            (x509.ExtendedKeyUsage(_USAGES[role]), False),
        ]
        return Issued(self._sign(subject, key.public_key(), begin or _now() - SKEW, end, extensions), key)

    def renew(self, old: x509.Certificate, end: datetime, *, new_key: bool = False) -> Issued:
        """A certificate as an older one of this authority, its own included, with another time and number.

        Args:
            old: the older one.
            end: when the new one's time is over.
            new_key: it gets a key of its own; else it is for the old one's. An authority keeps its key: with another
                one it would vouch for nobody.

        Raises:
            BadValueError: it is somebody else's.
        """
        try:
            old.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature) as error:
            text = f"the certificate of {common_name(old)!r} is not of the authority {common_name(self.certificate)!r}"
            raise BadValueError(text) from error
        begin = _now() - SKEW
        if _may_sign(old):
            if new_key:
                raise BadValueError("an authority with a new key is another one: make that, and issue all anew")
            return Issued(_self_signed(old.subject, self._key, begin, end), None)
        wanted = (x509.SubjectAlternativeName, x509.ExtendedKeyUsage)
        extensions = [(each.value, each.critical) for each in old.extensions if isinstance(each.value, wanted)]
        key = _new_key() if new_key else None
        return Issued(
            self._sign(old.subject, key.public_key() if key else old.public_key(), begin, end, extensions), key
        )

    def _sign(
        self,
        subject: x509.Name,
        public: CertificatePublicKeyTypes,
        begin: datetime,
        end: datetime,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        _check_dates(begin, end)
        builder = _builder(subject, self.certificate.subject, public, begin, end)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        return builder.sign(self._key, hashes.SHA256())

    def __repr__(self) -> str:
        return f"<Authority {common_name(self.certificate)!r}>"


# ---- what a certificate says


def common_name(certificate: x509.Certificate) -> str:
    """Whose it is; empty if it does not say."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The subject alternative names that are text: host names, IP addresses, e-mail addresses, URIs."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    kinds = (x509.DNSName, x509.IPAddress, x509.RFC822Name, x509.UniformResourceIdentifier)
    return tuple(str(name.value) for name in extension.value if isinstance(name, kinds))


def role_of(certificate: x509.Certificate) -> str:
    """`"authority"`, `"server"`, `"client"` or `"both"`."""
    if _may_sign(certificate):
        return "authority"
    try:
        usages = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return "both"  # it is not limited (RFC 5280, 4.2.1.12)
    return next((role for role, needed in _USAGES.items() if usages == set(needed)), "both")


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


# ---- files


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file.

    Raises:
        BadValueError: it cannot be read, or holds none.
    """
    try:
        return x509.load_pem_x509_certificate(_read(path))
    except ValueError as error:
        if isinstance(error, BadValueError):
            raise
        raise BadValueError(f"{str(path)!r} holds no certificate in PEM") from error


def _read_key(path: Path) -> Key:
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except (ValueError, TypeError) as error:
        if isinstance(error, BadValueError):
            raise
        raise BadValueError(f"{str(path)!r} holds no private key in PEM, or an encrypted one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadValueError(f"{str(path)!r} holds a key of another kind than an authority's of `spworkers cert`")
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadValueError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """Write a certificate as PEM; what is there is replaced at one blow.

    Raises:
        BadValueError: it cannot be written.
    """
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def write_key(path: Path, key: Key) -> None:
    """Write a key as PEM, for its owner's eyes only at every moment; what is there is replaced at one blow.

    Raises:
        BadValueError: it cannot be written.
    """
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(path, pem, 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    made = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, made = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # 0600, and O_EXCL
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, path)
    except OSError as error:
        if made is not None:
            with contextlib.suppress(OSError):
                os.unlink(made)
        raise BadValueError(f"{str(path)!r} cannot be written: {error.strerror}") from error


# ---- making them


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _public_bytes(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _check_dates(begin: datetime, end: datetime) -> None:
    if end <= begin:
        raise BadValueError(f"a certificate whose time ends at {end:%Y-%m-%d %H:%M}, before it begins")


def _self_signed(subject: x509.Name, key: Key, begin: datetime, end: datetime) -> x509.Certificate:
    _check_dates(begin, end)
    builder = _builder(subject, subject, key.public_key(), begin, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as problem:
        raise BadValueError(f"{name!r} cannot be a certificate's common name: {problem}") from problem


_HOST: Final = re.compile(r"(?=.{1,253}\.?\Z)(\*\.)?(?!-)[\w-]{1,63}(?<!-)(\.(?!-)[\w-]{1,63}(?<!-))*\.?", re.ASCII)
"""A host's name (RFC 1123, 2.1), or all of a domain (RFC 9525, 6.3). With underscores, which containers have."""


def _alternative(name: str, *, dialled: bool) -> x509.GeneralName:
    """As the certificate has it. `dialled`: it is to be what somebody dials; a client may call itself anything."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        if dialled and name.rstrip(".").rpartition(".")[2].isdecimal():
            raise ValueError("a name that ends in a number is an IPv4 address, and this is none")
        if dialled and "@" not in name and name.isascii() and not _HOST.fullmatch(name):
            raise ValueError("a host's name has letters, digits, hyphens and dots")
        return x509.RFC822Name(name) if "@" in name else x509.DNSName(name)
    except ValueError as problem:
        raise BadValueError(f"{name!r} is neither a host's name nor an IP address: {problem}") from problem


def _builder(
    subject: x509.Name, issuer: x509.Name, public: CertificatePublicKeyTypes, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
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

"""What a TLS transport is configured with: certificates, and what is demanded of the peer."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias

from spworkers.errors import BadValueError, TLSNoCertError

__all__ = ["TLSConfig"]

PathLike: TypeAlias = "str | os.PathLike[str]"
Verify: TypeAlias = "bool | Literal['optional'] | None"

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
"""TLS 1.0 and 1.1 are not to be used any more (RFC 8996)."""


@dataclass(frozen=True)
class TLSConfig:
    """Certificates, and what is demanded of the peer. It crosses to the I/O process, which an ssl.SSLContext could not.

        server = TLSConfig(cert="server.pem", key="server.key")
        client = TLSConfig(ca="ca.pem")
        mutual = TLSConfig(cert="alice.pem", key="alice.key", ca="ca.pem", verify_peer=True)

    Files are PEM; relative paths are of the working directory at this moment. They are read where they are used, in the
    I/O process, and again when they have changed: a renewed certificate holds for the next connection.

    Args:
        cert: our certificate, those between it and the authority's behind it. Listeners need one.
        key: its private key; None: it is in the file of the certificate.
        ca: certificates of the authorities whose word counts: a file, a folder as `openssl rehash` makes it, or
            several. None: the system's, for dialers.
        verify_peer: whether the peer has to have a certificate of one of the authorities. None: dialers demand it,
            listeners if `ca` is given. True: both do. `"optional"`: a listener asks for one, and takes who has none
            (but not who has a wrong one); a dialer demands it. False: nobody does; the connection is encrypted, with
            whomever.
        server_name: the name that the listener's certificate must have, and that it is told (SNI). None: the host in
            the address that is dialled.
        check_hostname: False: any name will do, if the certificate is the authority's.
        key_password: of the private key, if it is encrypted. It is never shown.
        minimum_version: `"1.2"` or `"1.3"`, the oldest TLS that is spoken.
        maximum_version: the newest; None: whatever there is.
        ciphers: of TLS 1.2, as OpenSSL writes them (`openssl ciphers`); None: OpenSSL's choice.

    Raises:
        BadValueError: a value of a wrong type, or two that do not go together. Files are looked at when the
            configuration becomes an option.
    """

    cert: PathLike | None = None
    key: PathLike | None = None
    ca: PathLike | Iterable[PathLike] | None = None
    verify_peer: Verify = field(default=None, kw_only=True)
    server_name: str | None = field(default=None, kw_only=True)
    check_hostname: bool = field(default=True, kw_only=True)
    key_password: str | bytes | None = field(default=None, kw_only=True, repr=False)
    minimum_version: str = field(default="1.2", kw_only=True)
    maximum_version: str | None = field(default=None, kw_only=True)
    ciphers: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        put = object.__setattr__  # it is frozen for everybody else
        put(self, "cert", _path("cert", self.cert))
        put(self, "key", _path("key", self.key))
        put(self, "ca", None if self.ca is None else self._authorities())
        if self.key is not None and self.cert is None:
            raise BadValueError(f"TLSConfig: key={self.key!r} without cert=; give the certificate that it belongs to")
        if self.key_password is not None and self.cert is None:
            raise BadValueError("TLSConfig: key_password= without cert= and key=; there is no key to decrypt")
        if self.verify_peer not in (None, True, False, "optional"):
            raise BadValueError(f"TLSConfig: verify_peer={self.verify_peer!r}; True, False, 'optional' or None")
        for name in ("server_name", "ciphers"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise BadValueError(f"TLSConfig: {name}={getattr(self, name)!r}; a string, or None")
        if self.server_name == "":
            raise BadValueError("TLSConfig: server_name='' names nobody; check_hostname=False does not check the name")
        if self.server_name is not None:
            _check_server_name(self.server_name)
        if not isinstance(self.check_hostname, bool):
            raise BadValueError(f"TLSConfig: check_hostname={self.check_hostname!r}; True or False")
        if not isinstance(self.key_password, (str, bytes, type(None))):
            raise BadValueError("TLSConfig: key_password is neither a string nor bytes")
        for name in ("minimum_version", "maximum_version"):
            value = getattr(self, name)
            if value not in VERSIONS and not (value is None and name == "maximum_version"):
                raise BadValueError(f"TLSConfig: {name}={value!r}; there are {' and '.join(VERSIONS)}")
        if self.maximum_version is not None and self.maximum_version < self.minimum_version:
            raise BadValueError(
                f"TLSConfig: maximum_version={self.maximum_version!r} is below minimum_version={self.minimum_version!r}"
            )

    def _authorities(self) -> tuple[str, ...]:
        paths = _paths(self.ca)
        if not paths:  # a listener would take it for "whoever comes"
            raise BadValueError(f"TLSConfig: ca={self.ca!r} names no authority; give a file, or None for no ca at all")
        return paths

    # ---- across processes

    def to_wire(self) -> dict[str, Any]:
        """It as plain data, the password included: for a control channel, never for a log."""
        return {
            each.name: list(value) if isinstance(value, tuple) else value
            for each in fields(self)
            if (value := getattr(self, each.name)) != each.default
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> TLSConfig:
        """The configuration of which this is the plain data; keywords in a mapping, that is.

        Raises:
            BadValueError: it is none.
        """
        known = {each.name for each in fields(cls)}
        for name in wire:
            if name not in known:
                raise BadValueError(f"TLSConfig: there is no {name!r}; there are {', '.join(sorted(known))}")
        return cls(**wire)

    # ---- into use

    @property
    def files(self) -> tuple[str, ...]:
        """All files and folders that it names."""
        named = (self.cert, self.key, *_paths(self.ca))
        return tuple(str(path) for path in named if path is not None)

    def check(self) -> None:
        """Look whether it can be used: the files can be read, the key is that of the certificate.

        Raises:
            BadValueError: it cannot; the message says what is wrong with which file.
        """
        self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def server_context(self) -> ssl.SSLContext:
        """For listeners.

        Raises:
            TLSNoCertError: there is no certificate.
            BadValueError: it cannot be used.
        """
        if self.cert is None:
            raise TLSNoCertError(f"a listener of TLS needs a certificate; {TLSNoCertError.advice}")
        if self.verify_peer and not self.ca:
            raise BadValueError(
                f"TLSConfig: verify_peer={self.verify_peer!r} of a listener without ca=; name the authority whose"
                " clients are welcome (the system's would let in anybody who has a web site)"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A ticket would be sent after the handshake, and a peer that sends and closes without reading it would answer
        # it with a reset, which may discard what it had sent. Connections last; resuming them gains nothing.
        context.num_tickets = 0
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        if self.verify_peer == "optional":
            context.verify_mode = ssl.CERT_OPTIONAL
        elif self.verify_peer or (self.verify_peer is None and self.ca):
            context.verify_mode = ssl.CERT_REQUIRED
        self._load(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For dialers.

        Raises:
            BadValueError: it cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.check_hostname and self.verify_peer is not False
        if self.verify_peer is False:
            context.verify_mode = ssl.CERT_NONE
        elif not self.ca:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.minimum_version = VERSIONS[self.minimum_version]
        if self.maximum_version is not None:
            context.maximum_version = VERSIONS[self.maximum_version]
        if self.ciphers is not None:
            try:
                context.set_ciphers(self.ciphers)
            except ssl.SSLError as error:
                raise BadValueError(f"TLSConfig: ciphers={self.ciphers!r}: OpenSSL knows none of them") from error
        for path in _paths(self.ca):
            _load_authorities(context, path)
        if self.cert is not None:
            self._load_cert(context, str(self.cert), str(self.key or self.cert))

    def _load_cert(self, context: ssl.SSLContext, cert: str, key: str) -> None:
        _check_readable("cert", cert)
        _check_readable("key", key)

        def password() -> str | bytes:
            if self.key_password is None:  # OpenSSL would ask for it on the terminal
                raise BadValueError(f"TLSConfig: key {key!r} is encrypted; give its key_password=")
            return self.key_password

        try:
            context.load_cert_chain(cert, key, password)
        except ssl.SSLError as error:
            raise BadValueError(f"TLSConfig: {self._what_is_wrong(error, cert, key)}") from error
        except BadValueError:  # the one from above
            raise
        except ValueError as error:
            raise BadValueError(f"TLSConfig: key_password does not fit: {error}") from error
        except OSError as error:  # it went between two looks
            raise BadValueError(f"TLSConfig: cert {cert!r} or key {key!r} cannot be read: {error.strerror}") from error

    def _what_is_wrong(self, error: ssl.SSLError, cert: str, key: str) -> str:
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"key {key!r} is not the key of cert {cert!r}"
        if not _has(cert, b"-----BEGIN CERTIFICATE-----"):
            return f"cert {cert!r} holds no certificate in PEM"
        if not _has(key, b"PRIVATE KEY-----"):
            return f"key {key!r} holds no private key in PEM"
        if _has(key, b"ENCRYPTED"):
            return f"key {key!r} is not decrypted by this key_password"
        return f"cert {cert!r} with key {key!r} cannot be used ({_words(error)})"


def _check_server_name(name: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
    except (ValueError, TypeError, ssl.SSLError) as error:  # UnicodeError is a ValueError
        raise BadValueError(f"TLSConfig: server_name={name!r} is no host's name: {error}") from error


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _check_readable("ca", path)
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise BadValueError(f"TLSConfig: ca {path!r} holds no certificates in PEM") from error
    except OSError as error:
        raise BadValueError(f"TLSConfig: ca {path!r} cannot be read: {error.strerror}") from error


def _check_readable(name: str, path: str) -> None:
    try:
        if os.path.isdir(path):
            if name == "ca":
                os.listdir(path)
                return
            raise BadValueError(f"TLSConfig: {name} {path!r} is a folder, not a file")
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for whoever writes to it
            raise BadValueError(f"TLSConfig: {name} {path!r} is no file of bytes, but a pipe or a device")
        with open(path, "rb"):
            return
    except OSError as error:
        raise BadValueError(f"TLSConfig: {name} {path!r} cannot be read: {error.strerror}") from error


def _has(path: str, mark: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return mark in file.read(1 << 20)
    except OSError:
        return False


def _words(error: ssl.SSLError) -> str:
    return (error.reason or "no good PEM").replace("_", " ").lower()


def _path(name: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path or "\0" in path:
        raise BadValueError(f"TLSConfig: {name}={value!r}; the path of a PEM file")
    return os.path.abspath(path)


def _paths(value: Any) -> tuple[str, ...]:
    """`ca` as a tuple, whatever was given."""
    if value is None:
        return ()
    if isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable):
        value = (value,)
    return tuple(path for each in value if (path := _path("ca", each)) is not None)

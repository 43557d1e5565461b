"""Certificates for tests: an authority of one's own, and what it vouches for, also what nobody should accept.

They are made on the spot, with keys of this moment, in a folder that goes with the authority. They protect nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from spworkers.certificates import Authority, Role, write_certificate, write_key
from spworkers.closing import Closing
from spworkers.errors import BadValueError

__all__ = ["CertificateAuthority", "CertificateFiles"]

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
        self._authority = Authority.create(name, _now() + 30 * _DAY)
        self.cert = self.folder / "ca.pem"
        write_certificate(self.cert, self._authority.certificate)

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
        if expired and not_yet:
            raise BadValueError("a certificate cannot be expired and not yet valid: choose one")
        begin, end = (_now() - 10 * _DAY, _now() - _DAY) if expired else (None, _now() + 10 * _DAY)
        if not_yet:
            begin = _now() + _DAY
        made = self._authority.issue(*names, role=role, begin=begin, end=end)
        assert made.key is not None, "a new one"
        self._count += 1
        files = CertificateFiles(self.folder / f"{role}-{self._count}.pem", self.folder / f"{role}-{self._count}.key")
        write_certificate(files.cert, made.certificate)
        write_key(files.key, made.key)
        return files

    def close(self) -> None:
        """Remove the files, if the folder is a temporary one. Harmless when that was done already."""
        if self._own:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<CertificateAuthority {self.name!r}: {self._count} issued, in {self.folder}>"


def _now() -> datetime:
    return datetime.now(timezone.utc)

"""A TLS session on a non-blocking socket, as a stream.

OpenSSL does no I/O here: it reads from and writes to memory, and the bytes go to and from the socket in the open. So it
is known when the kernel has accepted the last cipher byte of what was sent, which is when it counts as sent.

    plain  ── send ──▶ SSLObject ──▶ outgoing ──▶ _left ──▶ socket
    plain  ◀── recv ── SSLObject ◀── incoming ◀──────────── socket
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from spworkers.errors import ConnResetError, TLSError
from spworkers.transport.handshake import doing_with, recv_some
from spworkers.transport.stream import WRITE_SIZE
from spworkers.transport.waiting import writable

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["TLSStream", "explained"]

RECORD = 16 * 1024
"""Plain bytes of the largest record (RFC 8446, 5.1): one read of OpenSSL gives no more."""

READ_SIZE = 128 * 1024
"""Cipher bytes taken from the kernel at once."""

_scratches: list[memoryview] = []
"""Buffers for that, which are lent: one a thread, at most. Fresh ones would cost more than the reading."""

READS = 8
"""Reads of the kernel in a row that may bring no plain byte, before others get their turn."""

UNREAD_ANSWERS = 256 * 1024
"""Cipher bytes that wait for a peer which makes us answer (key updates) and reads nothing; more is no accident."""

FAREWELL = 1.0
"""Seconds in which a peer that was refused may read why. Closing with unread bytes of its would take the alert back."""


class TLSStream:
    """A TLS session, before its handshake.

    Args:
        sock: a connected, non-blocking socket; it is the stream's from now on.
        context: made for this side.
        server_side: whether we are the one that was dialled.
        server_name: whom we want to talk to, if we dial: SNI, and checked if the context checks names.
        remote: the other end's address, for errors.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        remote: str = "",
    ) -> None:
        self._sock = sock
        self._server_side = server_side
        self._remote = remote
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else server_name,
        )
        self._left = memoryview(b"")  # cipher bytes that the kernel has not accepted
        self._pushed = 0  # how many it has
        self._ledger: deque[tuple[int, int]] = deque()  # of records: the cipher byte where it ends, its plain bytes
        self._open = False  # after the handshake
        self._ended = False  # the peer has said that nothing more comes, or has gone
        self._said = False  # we have
        self._failure: TLSError | None = None  # to be raised when what came before it has been given out

    # ---- the handshake

    async def handshake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do the handshake. It takes as long as it takes: the caller sets the limit.

        Raises:
            TLSError: it failed; the peer is told by an alert.
            ConnResetError: the peer closed the connection meanwhile.
            OSError: the connection is lost.
        """
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._answer()
                raise explained(error, self._remote, secure=False) from error
            await self._push_all(loop)
            data = await recv_some(loop, self._sock, READ_SIZE)
            if not data:
                raise ConnResetError(
                    f"{doing_with(self._remote)}: the peer closed the connection during the TLS handshake; it does so"
                    " when it does not speak TLS, or does not like our certificate"
                )
            self._incoming.write(data)
        await self._push_all(loop)
        self._open = True

    async def refuse(self, loop: asyncio.AbstractEventLoop) -> None:
        """The handshake has failed: give the peer a moment to read why. Close it then."""

        async def see_out() -> None:
            for _ in range(READS):
                if not await recv_some(loop, self._sock, READ_SIZE):
                    return

        with contextlib.suppress(OSError, asyncio.TimeoutError):
            self._sock.shutdown(socket.SHUT_WR)
            await asyncio.wait_for(see_out(), FAREWELL)

    @property
    def state(self) -> dict[str, Any]:
        """What was agreed upon, as plain data: see `spworkers.tlsstate.TLSState`."""
        cipher = self._ssl.cipher()
        certificate = self._ssl.getpeercert(binary_form=True)
        verifies = self._ssl.context.verify_mode != ssl.CERT_NONE
        return {
            "version": self._ssl.version() or "",
            "cipher": cipher[0] if cipher else "",
            "bits": cipher[2] if cipher else 0,
            "server_name": "" if self._server_side else self._ssl.server_hostname or "",
            "certificate": certificate or b"",
            "verified": bool(certificate) and verifies,
        }

    # ---- Stream

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. After `shutdown` they mean nothing, but that the end is not there yet.

        An end without a close_notify (RFC 8446, 6.1) is an end: frames have lengths, so what was cut off is known.

        Raises:
            BlockingIOError: there is nothing now.
            TLSError: what came is no TLS, or was tampered with.
        """
        if self._said:
            return self._sock.recv(size)
        for _ in range(READS):
            data = self._decrypted(size)
            if data or self._ended:
                return data
            if self._failure is not None:
                raise self._failure
            self._fetch()
        raise BlockingIOError

    def recv_into(self, buffer: memoryview, /) -> int:
        """As `recv`, into a buffer; how many bytes. It is filled before anything is kept back."""
        for _ in range(READS):
            length = self._decrypt_into(buffer)
            if length or self._ended:
                return length
            if self._failure is not None:
                raise self._failure
            self._fetch()
        raise BlockingIOError

    def _fetch(self) -> None:
        """Take cipher bytes from the kernel. BlockingIOError: there are none."""
        scratch = _scratches.pop() if _scratches else memoryview(bytearray(READ_SIZE))
        try:
            got = self._sock.recv_into(scratch)
            if got:
                self._incoming.write(scratch[:got])
            else:
                self._incoming.write_eof()
        finally:
            _scratches.append(scratch)

    @property
    def pending(self) -> bool:
        """Whether the end, or an error, stands behind the bytes that `recv` gave last: call it again."""
        return self._failure is not None or self._ended

    def _decrypted(self, size: int) -> bytes:
        """What OpenSSL can make of the bytes that it has."""
        parts = []
        with memoryview(bytearray(RECORD)) as scratch:
            while size > 0 and (length := self._decrypt_into(scratch[: min(size, RECORD)])):
                parts.append(bytes(scratch[:length]))
                size -= length
        return b"".join(parts)

    def _decrypt_into(self, buffer: memoryview) -> int:
        """The same, into a buffer; how many bytes."""
        done, size = 0, len(buffer)
        read = cast("Callable[[int, memoryview], int]", self._ssl.read)  # which typeshed knows without a buffer only
        while done < size and not self._ended and self._failure is None:
            try:
                with buffer[done:] as rest:
                    length = read(len(rest), rest)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                self._ended = True
            except ssl.SSLError as error:
                self._failure = explained(error, self._remote, secure=True)
                self._failure.__cause__ = error
            else:
                self._ended = not length
                done += length
        if self._outgoing.pending:
            self._answer()
        return done

    def send(self, data: Buffer, /) -> int:
        """How many of these bytes the kernel has accepted, enciphered; see `Stream.send`.

        Raises:
            BlockingIOError: none. Offer the same bytes again, and behind them whatever there is.
            TLSError: the session is over.
        """
        if not self._ledger:
            self._encipher(data)
        try:
            self._push()
        except BlockingIOError:
            if not self._ledger or self._ledger[0][0] > self._pushed:
                raise
        taken = 0
        while self._ledger and self._ledger[0][0] <= self._pushed:
            taken += self._ledger.popleft()[1]
        return taken

    def _encipher(self, data: Buffer) -> None:
        """Make records of the first bytes, and remember where each of them ends."""
        end = self._pushed + len(self._left)
        with memoryview(data) as view, view.cast("B") as plain:
            for at in range(0, min(len(plain), WRITE_SIZE), RECORD):
                with plain[at : min(at + RECORD, WRITE_SIZE)] as part:
                    try:
                        self._ssl.write(part)
                    except ssl.SSLError as error:
                        raise explained(error, self._remote, secure=True) from error
                    self._ledger.append((end + self._outgoing.pending, len(part)))
        self._take_outgoing()

    def shutdown(self, how: int, /) -> None:
        """SHUT_WR: say close_notify, then that nothing more comes.

        Raises:
            BlockingIOError: the kernel does not take it now; call again.
            OSError: the connection is lost.
        """
        self._say_goodbye()
        self._push()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close it; the peer is told, if that needs no waiting. Harmless when it is closed already."""
        if self._open and not self._said and self._sock.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._say_goodbye()
                self._push()
        self._sock.close()

    # ---- cipher bytes

    def _say_goodbye(self) -> None:
        if self._said:
            return
        self._said = True
        with contextlib.suppress(ssl.SSLError):  # it would like to wait for the peer's
            self._ssl.unwrap()
        self._take_outgoing()

    def _answer(self) -> None:
        """Send what OpenSSL has to say by itself: alerts, and answers to key updates. What does not go, goes later."""
        self._take_outgoing()
        if len(self._left) > UNREAD_ANSWERS:
            self._failure = TLSError(f"TLS with {self._remote or 'the peer'}: it demands answers, and reads none")
        with contextlib.suppress(OSError):
            self._push()

    def _take_outgoing(self) -> None:
        new = self._outgoing.read()
        self._left = memoryview(bytes(self._left) + new if self._left else new)

    def _push(self) -> None:
        while self._left:
            accepted = self._sock.send(self._left)
            self._pushed += accepted
            self._left = self._left[accepted:]

    async def _push_all(self, loop: asyncio.AbstractEventLoop) -> None:
        self._take_outgoing()
        while True:
            try:
                self._push()
                return
            except BlockingIOError:
                await writable(loop, self._sock.fileno())

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else f"fd {self.fileno()}"
        return f"<TLSStream {self._ssl.version() or 'before its handshake'} with {self._remote or '-'}: {state}>"


# ---- errors in words

_NO_TLS = {
    "BAD_RECORD_TYPE",
    "HTTPS_PROXY_REQUEST",
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "WRONG_VERSION_NUMBER",
}
_ALERTS = {
    "BAD_CERTIFICATE": "it does not accept our certificate",
    "CERTIFICATE_EXPIRED": "our certificate has expired",
    "CERTIFICATE_REQUIRED": "it demands a certificate of us: TLSConfig(cert=..., key=...)",
    "CERTIFICATE_REVOKED": "our certificate is revoked",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "HANDSHAKE_FAILURE": "no common cipher, or it demands a certificate of us: TLSConfig(cert=..., key=...)",
    "PROTOCOL_VERSION": "it speaks another version of TLS",
    "UNKNOWN_CA": "it does not know the authority of our certificate",
    "UNSUPPORTED_CERTIFICATE": "our certificate is not for this use",
}
# X509_V_ERR_…, as `SSLCertVerificationError.verify_code` has them.
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}
_WRONG_NAME = {62, 63, 64}


def explained(error: ssl.SSLError, remote: str, *, secure: bool) -> TLSError:
    """An error of ours for one of OpenSSL's, in words that say what to do.

    Args:
        error: what OpenSSL said.
        remote: the other end's address.
        secure: the handshake was over.
    """
    return TLSError(f"TLS with {remote or 'the peer'}: {_reason(error, secure)}")


def _reason(error: ssl.SSLError, secure: bool) -> str:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verification(error)
    if reason in _NO_TLS:
        if secure:
            return "what came is no record of this session: it was damaged, or tampered with, on the way"
        return "what the peer says is no TLS; is one end at tcp:// and the other at tls+tcp://?"
    _, alert, what = reason.partition("_ALERT_")
    if alert:
        said = what.lower().replace("_", " ")
        return f"the peer refuses ({said}){': ' + _ALERTS[what] if what in _ALERTS else ''}"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "the peer has no certificate, and TLSConfig demands one (verify_peer)"
    if reason in ("NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"):
        return f"{reason.lower().replace('_', ' ')}: the two ends have no version or cipher of TLS in common"
    return reason.lower().replace("_", " ") or str(error)


def _verification(error: ssl.SSLCertVerificationError) -> str:
    text = f"the peer's certificate is refused: {error.verify_message.rstrip('.')}"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return f"{text}; name the authority that made it: TLSConfig(ca=...)"
    if error.verify_code in _WRONG_NAME:
        return f"{text}; dial a name that it has, or say which one it should have: TLSConfig(server_name=...)"
    return text

"""What a web server has to show beside sockets: pages from memory, and files below folders."""

from __future__ import annotations

import email.utils
import http
import mimetypes
import os
import stat
import urllib.parse
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import Response

__all__ = ["Answer", "Pages"]

DEFAULT_TYPE = "application/octet-stream"


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        head: status and headers.
        body: what follows; the same bytes for all who ask.
        file: or this, `size` bytes of it; to be closed.
        size: what the head says of the file.
        refuses: the status is 400 or more.
        nothing: there is nothing at that path, as far as pages go.
    """

    head: bytes
    body: bytes = b""
    file: BinaryIO | None = None
    refuses: bool = False
    size: int = 0
    nothing: bool = False


class Pages:
    """Answers to requests that are for no socket.

    Args:
        pages: path → body and content type.
        static: path → a file, or a folder whose files have the paths below.
    """

    def __init__(self, pages: Mapping[str, tuple[bytes, str]], static: Mapping[str, str]) -> None:
        self._pages = dict(pages)
        self._static = {path.rstrip("/"): os.path.realpath(where) for path, where in static.items()}

    def answer(self, method: str, target: str) -> Answer:
        """The answer to a request, whose connection is to be closed behind it.

        Args:
            method: GET and HEAD are answered with what is there.
            target: path and query, as they came.
        """
        if method not in ("GET", "HEAD"):
            return refusal(405, "only GET and HEAD are understood here\n", Allow="GET, HEAD")
        path = urllib.parse.unquote(target.partition("?")[0])
        page = self._pages.get(path)
        if page is not None:
            body, kind = page
            return Answer(_head(200, kind, len(body)), body if method == "GET" else b"")
        file = self._open(path)
        if file is None:
            return refusal(404, "there is nothing here\n", with_body=method == "GET")._replace(nothing=True)
        kind = mimetypes.guess_type(file.name)[0] or DEFAULT_TYPE
        size = os.fstat(file.fileno()).st_size
        head = _head(200, kind, size)
        if method == "HEAD":
            file.close()
            return Answer(head)
        return Answer(head, file=file, size=size)

    def _open(self, path: str) -> BinaryIO | None:
        """The file of a path; None: there is none, or it lies outside of what is shown."""
        if "\0" in path:
            return None
        for prefix, root in sorted(self._static.items(), key=lambda each: -len(each[0])):
            if path != prefix and not path.startswith(f"{prefix}/"):
                continue
            wanted = os.path.realpath(os.path.join(root, path[len(prefix) :].lstrip("/")))
            if os.path.isdir(wanted):
                wanted = os.path.realpath(os.path.join(wanted, "index.html"))
            if wanted != root and os.path.commonpath((root, wanted)) != root:
                return None  # out of the folder, by .. or by a link
            return _open_regular(wanted)
        return None


def _open_regular(path: str) -> BinaryIO | None:
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - it is the caller's
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def _without_waiting(path: str, flags: int) -> int:
    """A pipe in the file system would wait for whoever writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def refusal(status: int, text: str, *, with_body: bool = True, **headers: str) -> Answer:
    """An answer that says no.

    Args:
        status: 400 and up.
        text: for people.
        with_body: False: to a HEAD, which gets no text.
        headers: further ones.
    """
    body = text.encode()
    return Answer(
        _head(status, "text/plain; charset=utf-8", len(body), **headers), body if with_body else b"", refuses=True
    )


def _head(status: int, kind: str, length: int, **more: str) -> bytes:
    fields = {
        "Date": email.utils.formatdate(usegmt=True),
        "Connection": "close",
        "Content-Length": str(length),
        "Content-Type": kind,
        "X-Content-Type-Options": "nosniff",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return Response(status, http.HTTPStatus(status).phrase, Headers(fields)).serialize()

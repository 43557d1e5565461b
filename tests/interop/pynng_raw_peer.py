"""A raw socket of nng, by pynng's lower half: `pynng_raw_peer.py PROTOCOL echo|ask ADDRESS [HEADER BODY]`, in hex.

`echo` sends every message back with the header that it came with; `ask` sends one of its own. Either writes a line of
JSON for each message that comes, its header and its body.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def header_of(pynng: Any, message: Any) -> bytes:
    length = pynng.lib.nng_msg_header_len(message._nng_msg)
    found: bytes = pynng.ffi.buffer(pynng.lib.nng_msg_header(message._nng_msg), length)[:] if length else b""
    return found


def made(pynng: Any, header: bytes, body: bytes) -> Any:
    message = pynng.Message(body)
    if header:
        assert pynng.lib.nng_msg_header_append(message._nng_msg, header, len(header)) == 0
    return message


def main() -> None:
    pynng: Any = importlib.import_module("pynng")
    protocol, manner, address, *more = sys.argv[1:]
    with pynng.Socket(opener=getattr(pynng.lib, f"nng_{protocol}_open_raw")) as peer:
        peer.dial(address, block=True)
        if manner == "ask":
            header, body = map(bytes.fromhex, more)
            peer.send_msg(made(pynng, header, body))
        while True:
            message = peer.recv_msg()
            header, body = header_of(pynng, message), message.bytes
            os.write(1, json.dumps([header.hex(), body.hex()]).encode() + b"\n")
            if manner == "echo":
                peer.send_msg(made(pynng, header, body))


if __name__ == "__main__":
    main()

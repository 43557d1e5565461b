"""pynng with nngcat's manners: `pynng_peer.py --PROTOCOL --listen|--dial ADDRESS --raw [--file FILE]`, and for TLS
`[--cacert FILE] [--cert FILE --key FILE]`.

In a process of its own, because a process that has used pynng cannot fork safely any more. What asks sends the file
once; what answers replies with it every time; what only sends, sends it again and again until somebody ends it. What
comes in goes to standard output. With `--poly` a pair1 has any number of peers, and answers each of them by its own
pipe.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

CLASSES = {
    "req": "Req0",
    "rep": "Rep0",
    "push": "Push0",
    "pull": "Pull0",
    "pub": "Pub0",
    "sub": "Sub0",
    "pair": "Pair0",
    "pair1": "Pair1",
    "bus": "Bus0",
    "surveyor": "Surveyor0",
    "respondent": "Respondent0",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in CLASSES:
        parser.add_argument(f"--{name}", dest="protocol", action="store_const", const=name)
    parser.add_argument("--listen")
    parser.add_argument("--dial")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--poly", action="store_true")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--cacert", type=Path)
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    return parser.parse_args()


def show(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def play(peer: Any, protocol: str, data: bytes, wait: Any) -> None:
    if protocol == "sub":
        peer.subscribe(b"")
    if protocol in {"surveyor", "bus", "pub"}:
        wait()
    if protocol in {"req", "surveyor", "push", "pair", "pair1", "bus"}:
        peer.send(data)
    if protocol == "req":
        show(peer.recv())
        return
    while protocol == "pub":
        peer.send(data)
        time.sleep(0.02)
    if protocol == "push":
        time.sleep(60)  # until we are ended
    while True:
        show(peer.recv())
        if protocol in {"rep", "respondent"}:
            peer.send(data)


def tls_config(pynng: Any, options: argparse.Namespace) -> Any:
    """As nngcat understands the same words: a listener with --cacert demands certificates."""
    kind = pynng.TLSConfig
    own = (
        {"own_cert_string": options.cert.read_text(), "own_key_string": options.key.read_text()} if options.cert else {}
    )
    authority = (
        {"ca_string": options.cacert.read_text(), "auth_mode": kind.AUTH_MODE_REQUIRED} if options.cacert else {}
    )
    if options.listen:
        return kind(kind.MODE_SERVER, **own, **authority)
    return kind(kind.MODE_CLIENT, server_name="localhost", **own, **authority)


def answer_each(peer: Any, data: bytes) -> None:
    """Answer every message by the pipe that it came by, with what it said."""
    while True:
        message = peer.recv_msg()
        show(message.bytes)
        message.pipe.send(data + message.bytes)


def main() -> None:
    pynng: Any = importlib.import_module("pynng")
    options = parse()
    data = options.file.read_bytes() if options.file else b""
    more = {"polyamorous": True} if options.poly else {}
    with getattr(pynng, CLASSES[options.protocol])(recv_max_size=0, **more) as peer:
        if options.cacert or options.cert:
            peer.tls_config = tls_config(pynng, options)
        if options.listen:
            peer.listen(options.listen)
        else:
            peer.dial(options.dial, block=True)

        def wait() -> None:
            while not peer.pipes:
                time.sleep(0.01)

        if options.poly:
            answer_each(peer, data)
        play(peer, options.protocol, data, wait)


if __name__ == "__main__":
    main()

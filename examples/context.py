"""A server that answers several requests at once: three worker processes, each with a context of one REP socket.

Each worker is attached to the socket's I/O process directly, so no request passes through the server's own process, and
none of them waits for another one's GIL. A worker that dies is replaced, and its request answered by another.

    python examples/context.py server tcp://127.0.0.1:40899 & sleep 1
    python examples/context.py client tcp://127.0.0.1:40899 John &
    python examples/context.py client tcp://127.0.0.1:40899 Mary
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import spworkers as sp

LONGEST = 1.0  # seconds that a request takes at most


def greet(request: bytes) -> bytes:
    """What a worker does; it is known by its process id."""
    worker = f"Worker {os.getpid()}"
    print(f"{worker}: Received request '{request.decode(errors='replace')}'", flush=True)
    work = random.uniform(0, LONGEST)
    print(f"{worker}: Sleeping for {work * 1000:.0f}ms", flush=True)
    time.sleep(work)
    response = b"Hello, " + request
    print(f"{worker}: Sending response '{response.decode(errors='replace')}'", flush=True)
    return response


def server(url: str) -> None:
    with sp.Rep(listen=url) as rep, sp.ContextPool(rep, greet, workers=3):
        signal.pause()


def client(url: str, name: str) -> None:
    me = f"Client {random.randrange(10_000)}"
    with sp.Req(dial=url) as req:
        print(f"{me}: Sending message '{name}'", flush=True)
        req.send(name.encode())
        print(f"{me}: Received response '{req.recv().decode(errors='replace')}'")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["server", url]:
            server(url)
        case ["client", url, name]:
            client(url, name)
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: context.py server URL\n       context.py client URL NAME")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"context.py: {error}")
    except KeyboardInterrupt:
        pass

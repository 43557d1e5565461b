"""A server whose threads share one raw REP socket, and clients that are plain REQ sockets.

A raw socket keeps no state, so any thread may answer any request, in any order: the header that came with a request
says where its reply goes.

    python examples/raw.py server tcp://127.0.0.1:40899 20 & sleep 1
    python examples/raw.py client tcp://127.0.0.1:40899 10
"""

from __future__ import annotations

import contextlib
import random
import signal
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import spworkers as sp

LONGEST = 1.0  # seconds that a request takes at most


def server(url: str, workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool, sp.Rep(raw=True, listen=url) as rep:
        for number in range(workers):
            pool.submit(work, rep, number)
        signal.pause()


def work(rep: sp.Rep, number: int) -> None:
    """Answer requests with their body and our number, until the socket is closed."""
    with contextlib.suppress(sp.ClosedError):
        while True:
            request = rep.recv_msg()
            time.sleep(random.uniform(0, LONGEST))
            rep.send_msg(sp.Message(bytes(request.body) + struct.pack(">I", number), header=request.header))


def client(url: str, clients: int) -> None:
    """Ask once from each of so many sockets, all at once, and show which worker answered whom."""
    with ThreadPoolExecutor(clients) as pool:
        for answers in [pool.submit(ask, url, number) for number in range(clients)]:
            answers.result()  # raises what went wrong there


def ask(url: str, number: int) -> None:
    with sp.Req(dial=url) as req:
        req.send(struct.pack(">I", number))
        reply = req.recv()
        if len(reply) != 8:
            sys.exit(f"raw.py: {url} answers {reply!r:.40}; that is no server of ours")
        asked, answered = struct.unpack(">II", reply)
        print(f"Client: {asked:4}   Server: {answered:4}\n", end="", flush=True)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["server", url]:
            server(url, 16)
        case ["server", url, workers] if workers.isdecimal() and len(workers) < 4 and 0 < int(workers) <= 100:
            server(url, int(workers))
        case ["client", url]:
            client(url, 1)
        case ["client", url, clients] if clients.isdecimal() and len(clients) < 4 and 0 < int(clients) <= 100:
            client(url, int(clients))
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: raw.py server|client URL [NUMBER, 100 at most]")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"raw.py: {error}")
    except KeyboardInterrupt:
        pass

"""One HTTP server, and on it a REP, a PUB and a page.

    python examples/websocket.py server 8080 &
    python examples/websocket.py req 8080         # REPLY #0 Fri Nov 27 12:00:00 2026
    python examples/websocket.py sub 8080         # PUB #1 Fri Nov 27 12:00:05 2026
    python examples/websocket.py static 8080      # STATIC

Then open http://127.0.0.1:8080/ in a browser: the page talks to both sockets by the browser's own WebSocket. A request
begins with four bytes, which come back in front of its reply; the highest bit of the first one is set.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
import urllib.error
import urllib.request

import spworkers as sp

PAGE = """<!doctype html>
<title>spworkers</title>
<p>Reply: <b id="reply">none yet</b></p>
<p>News: <b id="news">none yet</b></p>
<script>
const show = (id, bytes) => document.getElementById(id).textContent = new TextDecoder().decode(bytes);
const open = (path, protocol) => {
  const socket = new WebSocket(`ws://${location.host}${path}`, `${protocol}.sp.nanomsg.org`);
  socket.binaryType = "arraybuffer";
  return socket;
};
const req = open("/req", "rep");
req.onopen = () => req.send(new Uint8Array([0x80, 0, 0, 1, ...new TextEncoder().encode("REQUEST")]));
req.onmessage = (message) => show("reply", new Uint8Array(message.data, 4));
const sub = open("/sub", "pub");
sub.onmessage = (message) => show("news", message.data);
</script>
"""


def serve(port: int, every: float) -> None:
    """Answer, publish and show until Ctrl-C."""
    pages = {"/": PAGE, "/static": ("STATIC\n", "text/plain")}
    with (
        sp.WebServer(f"http://127.0.0.1:{port}", pages=pages) as web,
        sp.Rep(listen=web.url("/req")) as rep,
        sp.Pub(listen=web.url("/sub")) as pub,
    ):
        print(f"serving on {web.address}", flush=True)
        threading.Thread(target=publish, args=(pub, every), daemon=True).start()
        for count, _ in enumerate(rep):
            rep.send(f"REPLY #{count} {time.ctime()}".encode())


def publish(pub: sp.Pub, every: float) -> None:
    """News at intervals, until the socket is closed."""
    count = 0
    with contextlib.suppress(sp.ClosedError):
        while True:
            time.sleep(every)
            count += 1
            pub.send(f"PUB #{count} {time.ctime()}".encode())


def ask(port: int) -> None:
    """One request."""
    with sp.Req(dial=f"ws://127.0.0.1:{port}/req") as req:
        req.send(b"REQUEST")
        print(req.recv().decode())


def hear(port: int) -> None:
    """One piece of news."""
    with sp.Sub(dial=f"ws://127.0.0.1:{port}/sub", subscribe=[b""]) as sub:
        print(sub.recv().decode())


def fetch(port: int) -> None:
    """The page that is no socket's."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/static", timeout=10) as response:
        print(response.read().decode(), end="")


def interval(text: str) -> float:
    """An argument in seconds."""
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no time between two events")
    return seconds


def main() -> None:
    """One of the four."""
    parser = argparse.ArgumentParser(description="a REP, a PUB and a page on one HTTP server")
    parser.add_argument("role", choices=["server", "req", "sub", "static"])
    parser.add_argument("port", type=int)
    parser.add_argument("--every", type=interval, default=5.0, help="seconds between two pieces of news")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        if options.role == "server":
            serve(options.port, options.every)
        else:
            {"req": ask, "sub": hear, "static": fetch}[options.role](options.port)


if __name__ == "__main__":
    try:
        main()
    except (sp.SPError, urllib.error.URLError) as error:
        sys.exit(f"websocket.py: {error}")

"""A page in Chromium talks to a REP and a SUB by the plain WebSocket API of browsers, over ws and wss."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import eventually
from sockets.kit import BOUND, Record, background

import spworkers as sp
from spworkers.testing import CertificateAuthority

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.once,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

PATIENCE = 60.0
"""Seconds: a browser's start is slow on a busy machine."""

PAGE = """<!doctype html>
<script>
const text = new TextEncoder(), words = new TextDecoder();
const scheme = location.protocol.replace("http", "ws").replace(":", "");
const open = (path, protocol) => {
  const socket = new WebSocket(`${scheme}://${location.host}${path}`, `${protocol}.sp.nanomsg.org`);
  socket.binaryType = "arraybuffer";
  return socket;
};
const told = open("/told", "pull");             // where the page says what it has seen
const tell = (what) => told.send(text.encode(what));
told.onopen = () => {
  const req = open("/rep", "rep");              // the page asks a REP
  req.onopen = () => req.send(new Uint8Array([0x80, 0, 0, 7, ...text.encode("question")]));
  req.onmessage = ({data}) => {
    const id = [...new Uint8Array(data, 0, 4)];
    tell(`reply ${id} ${words.decode(new Uint8Array(data, 4))} by ${req.protocol}`);
  };
  const pub = open("/sub", "sub");              // and publishes to a SUB, large and in text
  pub.onopen = () => {
    pub.send(new Uint8Array(300000).fill(120));
    pub.send("news: \\u00e4");
  };
  const sub = open("/pub", "pub");              // hears a PUB
  sub.onopen = () => tell("hears");
  sub.onmessage = ({data}) => tell(`heard ${data.byteLength}`);
  const wrong = open("/rep", "pub");            // is refused where it does not fit
  wrong.onclose = ({code}) => tell(`refused ${code}`);
  const foreign = new WebSocket(`${scheme}://localhost:${location.port}/rep`, "rep.sp.nanomsg.org");
  foreign.onclose = ({code}) => tell(`foreign ${code}`);
  const big = open("/rep", "rep");              // and told what it did wrong
  big.onopen = () => big.send(new Uint8Array(2000000));
  big.onclose = ({code}) => tell(`too long ${code}`);
};
</script>
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Chromium's last processes write on for a moment after it was ended.
    with tempfile.TemporaryDirectory(prefix="spw", ignore_cleanup_errors=True) as name:
        yield Path(name)


def browse(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """A browser of its own group, with nothing of anybody's in it."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--ignore-certificate-errors",  # ours are of an authority that it does not know
        "--remote-debugging-port=0",  # without it, headless Chromium ends when the page is loaded
    ]
    assert CHROMIUM is not None
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    return subprocess.Popen(
        [CHROMIUM, *options, url],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder / "errors").open("wb"),
        env=environment,
        start_new_session=True,
    )


def end(browser: subprocess.Popen[bytes]) -> None:
    """It and its helpers."""
    os.killpg(browser.pid, signal.SIGKILL)
    browser.wait(BOUND)


def served_by(ca: CertificateAuthority) -> sp.TLSConfig:
    files = ca.server()
    return sp.TLSConfig(files.cert, files.key)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_talks_to_rep_and_sub(scheme: str, folder: Path) -> None:
    with (
        CertificateAuthority() as ca,
        sp.WebServer(
            f"{scheme}://127.0.0.1:0",
            pages={"/": PAGE},
            tls_config=served_by(ca) if scheme == "https" else None,
        ) as web,
        sp.Pull(listen=web.url("/told")) as told,
        sp.Rep(listen=web.url("/rep")) as rep,
        sp.Sub(listen=web.url("/sub"), subscribe=[b""]) as sub,
        sp.Pub(listen=web.url("/pub")) as pub,
    ):
        hook = Record()
        pub.set_pipe_event_hook(hook)

        def answer() -> None:
            assert rep.recv(timeout=PATIENCE) == b"question"
            rep.send(b"answer")

        answered = background(answer)
        browser = browse(web.address + "/", folder)
        try:
            heard = set()
            while len(heard) < 5:
                heard.add(told.recv(timeout=PATIENCE).decode())
            assert heard == {
                "reply 128,0,0,7 answer by rep.sp.nanomsg.org",
                "hears",
                "refused 1006",
                "foreign 1006",
                "too long 1009",
            }
            answered.result(BOUND)
            assert sub.recv(timeout=PATIENCE) == b"x" * 300_000
            assert sub.recv(timeout=PATIENCE) == "news: ä".encode()
            pub.send(bytes(200_000))
            assert told.recv(timeout=PATIENCE) == b"heard 200000"
            assert "Chrom" in (rep.pipes[0].http_request.header("User-Agent") or "")
        except BaseException:
            print((folder / "errors").read_text()[-3000:])
            raise
        finally:
            end(browser)
        eventually(lambda: hook.counts() == (1, 1, 1), BOUND, what="the page's end")

"""macat in this process: every flag, format, exit code and message, beside sockets of ours."""

from __future__ import annotations

import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import ENV, eventually
from interop.interop_peers import free_port

import spworkers as sp
from spworkers.cli.macat.app import main
from spworkers.cli.macat.durations import seconds
from spworkers.cli.macat.formats import FORMATS
from spworkers.cli.macat.loops import Talk
from spworkers.cli.macat.mistakes import Mistake
from spworkers.cli.macat.options import OPTIONS
from spworkers.cli.macat.parser import parse
from spworkers.testing.certificates import CertificateAuthority, CertificateFiles

WAIT = 20.0
COMMAND = [sys.executable, "-m", "spworkers.cli.macat"]

Says = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def macat(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Says:
    """Runs it here: exit code, output and what it said to standard error."""
    monkeypatch.setattr(sys, "argv", ["/usr/bin/macat"])

    def run(*arguments: str) -> tuple[int, bytes, str]:
        code = main(arguments)
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return run


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


# --- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data", "x", "-v"],
        ["--data=x", "-v"],
        ["-Dx", "-v"],
        ["-D=x", "-v"],
        ["-D", "x", "-v"],
        ["-vDx"],
        ["-vD", "x"],
    ],
)
def test_every_form_of_an_option(arguments: list[str]) -> None:
    settings = parse(arguments)
    assert (settings.data, settings.verbosity) == (b"x", 1)


def test_short_ones_are_clustered_and_two_dashes_end_them() -> None:
    settings = parse(["-vvqAk", "--"])
    assert (settings.verbosity, settings.format, settings.insecure) == (1, "ascii", True)
    assert parse(["-D", "--", "--req"]).data == b"--"
    assert parse(["--data", "-v"]).verbosity == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nothing"], "no such option: --nothing"),
        (["-z"], "no such option: -z"),
        (["-vz"], "no such option: -z"),
        (["--req=x"], "no such option: --req=x"),
        (["-A=3"], "no such option: -A=3"),
        (["-vA=3"], "no such option: -A=3"),
        (["--data"], "option requires value: --data"),
        (["-D"], "option requires value: -D"),
        (["file"], "usage: extra arguments"),
        (["--req", "--", "--rep"], "usage: extra arguments"),
        (["--req", "-"], "usage: extra arguments"),
    ],
)
def test_mistakes_that_print_the_usage(macat: Says, arguments: list[str], message: str) -> None:
    code, out, err = macat(*arguments)
    assert (code, out) == (1, b"")
    assert err.startswith(f"macat: {message}\n")
    assert "usage: macat SOCKET-TYPE" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--req", "--rep"], "protocol already selected"),
        (["--req", "--req"], "protocol already selected"),
        (["--bind", "127.0.0.1:1"], "invalid address format"),
        (["--connect", "nowhere"], "invalid address format"),
        (["--raw", "-A"], "output format already set"),
        (["--format", "no", "--format", "raw"], "output format already set"),
        (["--format", "hex"], "invalid format type"),
        (["-D", "x", "-F", "y"], "data or file already set"),
        (["-D", "", "-D", ""], "data or file already set"),
        (["-F", "/nowhere/at all"], "open /nowhere/at all: No such file or directory"),
        (["--count", "many"], "failure parsing option value: --count"),
        (["--recv-timeout", "soon"], "failure parsing option value: --recv-timeout"),
        (["--send-timeout", ""], "failure parsing option value: --send-timeout"),
        (["-d", "1x"], "failure parsing option value: --send-delay"),
        (["-i", "1 s"], "failure parsing option value: --send-interval"),
        (["-E", "/nowhere"], "open /nowhere: No such file or directory"),
        (["--cacert", "/nowhere"], "open /nowhere: No such file or directory"),
        (["--key", __file__], "no certificate for the key"),
        (["-E", __file__, "-E", __file__], "certificate file already set"),
        (["--key", __file__, "--key", __file__], "key file already set"),
        (["--cacert", __file__, "--cacert", __file__], "cacert already set"),
        ([], "protocol not specified"),
        (["--bind", "tcp://127.0.0.1:0"], "protocol not specified"),
        (["--req"], "no address specified"),
        (["--req", "-L0", "--subscribe", "x"], "subscription only valid with SUB protocol"),
        (["--sub", "--raw-mode", "-L0", "--subscribe", "x"], "subscription only valid with SUB protocol"),
        (["--push", "-L0"], "no data to send"),
        (["--pub", "-L0"], "no data to send"),
        (["--rep", "--bind", "nothing://x"], "bind(nothing://x): invalid or unsupported transport"),
        (["--rep", "--bind", "tcp://127.0.0.1:no"], "bind(tcp://127.0.0.1:no): "),
        (["--rep", "--connect", "tcp://127.0.0.1:1"], "dial(tcp://127.0.0.1:1): connection refused"),
        (["--rep", "--bind", "tls+tcp://127.0.0.1:0"], "no server cert specified"),
        (["--rep", "--bind", "wss://127.0.0.1:0/"], "no server cert specified"),
        (["--rep", "--connect", "tls+tcp://127.0.0.1:1"], "no CA cert specified"),
        (["--push", "-L0", "-D", "x", "--send-timeout", "10ms", "--count", "200"], "send: send time out"),
    ],
)
def test_mistakes(macat: Says, arguments: list[str], message: str) -> None:
    code, out, err = macat(*arguments)
    assert (code, out) == (1, b"")
    assert err.startswith(f"macat: {message}")
    assert "usage:" not in err
    assert "Traceback" not in err


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(Mistake) as caught:
        parse(["--req", "--rep"])
    assert caught.value.hint == "--req was given, and then --rep; give one"


def test_help_has_every_option(macat: Says) -> None:
    code, out, err = macat("--help")
    assert (code, err) == (0, "")
    for options in OPTIONS.values():
        for option in options:
            assert ", ".join(option.names) in out.decode()
    assert macat("-h", "anything") == (0, out, "")


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("-1", -1), ("0.5", 0.5), ("20ms", 0.02), ("1h", 3600), ("1m30s", 90), ("-1.5s", -1.5), ("3us", 3e-6)],
)
def test_times(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "9999999h", "-1e9h", "s", "1 s", "1d", "ms1", "1s2", "nan", "inf", "1e3", "--1"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):
        seconds(text)


def test_an_output_that_takes_nothing(macat: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert macat("--help") == (1, b"", "macat: write: No space left on device\n")
    monkeypatch.setattr(sys, "stdout", None)
    assert macat("--help") == (1, b"", "macat: write: standard output is closed\n")


def test_standard_input_that_is_none(macat: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert macat("--push", "-F", "-") == (1, b"", "macat: open -: standard input is closed\n")


# --- formats


@pytest.mark.parametrize(
    ("name", "body", "shown"),
    [
        ("no", b"x", b""),
        ("raw", b"a\0\n\xff", b"a\0\n\xff"),
        ("ascii", b"a\0\n~\x7f\xa0\xa1\xad\xff", b"a..~..\xa1.\xff\n"),
        ("ascii", b"", b"\n"),
        ("quoted", b'a\n\r\\"\x00\x7f\xa0\xa1\xad', b'a\\n\\r\\\\\\"\\x00\\x7f\\xa0\xa1\\xad\n'),
        ("msgpack", b"x" * 255, b"\xc4\xff" + b"x" * 255),
        ("msgpack", b"x" * 256, b"\xc5\x01\x00" + b"x" * 256),
        ("msgpack", b"x" * 65536, b"\xc6\x00\x01\x00\x00" + b"x" * 65536),
    ],
)
def test_formats(name: str, body: bytes, shown: bytes) -> None:
    assert FORMATS[name](body) == shown


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], b""),
        (["--format", "no"], b""),
        (["--raw"], b"a\n"),
        (["--format=raw"], b"a\n"),
        (["--ascii"], b"a.\n"),
        (["-A"], b"a.\n"),
        (["--quoted"], b"a\\n\n"),
        (["-Q"], b"a\\n\n"),
        (["--msgpack"], b"\xc4\x02a\n"),
    ],
)
def test_flags_of_formats(macat: Says, beside: ThreadPoolExecutor, flags: list[str], shown: bytes) -> None:
    with sp.Rep(listen="inproc://macat-formats", recv_deadline=WAIT) as rep:
        beside.submit(answer, rep, b"a\n")
        assert macat("--req", "--connect", "inproc://macat-formats", *flags) == (0, shown, "")


def answer(sock: sp.Socket, body: bytes) -> bytes:
    request = sock.recv()
    sock.send(body)
    return request


# --- loops


def test_req_without_data_asks_with_an_empty_message(macat: Says, beside: ThreadPoolExecutor) -> None:
    with sp.Rep(listen="inproc://macat-empty", recv_deadline=WAIT) as rep:
        asked = beside.submit(answer, rep, b"yes")
        assert macat("--req", "--connect", "inproc://macat-empty", "-A") == (0, b"yes\n", "")
        assert asked.result(WAIT) == b""


def test_a_file_and_standard_input(macat: Says, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(range(256)) * 100
    (tmp_path / "data").write_bytes(body)
    with sp.Pull(listen="inproc://macat-file", recv_deadline=WAIT) as pull:
        assert macat("--push", "--connect", "inproc://macat-file", "-F", str(tmp_path / "data")) == (0, b"", "")
        assert pull.recv() == body
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
        assert macat("--push", "--connect", "inproc://macat-file", "--file", "-") == (0, b"", "")
        assert pull.recv() == b"typed"


def test_arguments_that_are_no_utf_8(macat: Says) -> None:
    with sp.Pull(listen="inproc://macat-bytes", recv_deadline=WAIT) as pull:
        assert macat("--push", "--connect", "inproc://macat-bytes", "-D", os.fsdecode(b"\xff\xfe"))[0] == 0
        assert pull.recv() == b"\xff\xfe"


@pytest.mark.parametrize(
    ("flags", "number"), [([], 1), (["--count", "3"], 3), (["--count", "0"], 0), (["-i", "1ms", "--count=4"], 4)]
)
@pytest.mark.parametrize("protocol", ["push", "pub"])
def test_count(macat: Says, protocol: str, flags: list[str], number: int) -> None:
    taker = sp.Pull(recv_deadline=WAIT) if protocol == "push" else sp.Sub(subscribe=b"", recv_deadline=WAIT)
    with taker:
        address = taker.listen("inproc://macat-count").address
        assert macat(f"--{protocol}", "--connect", address, "-Dx", *flags) == (0, b"", "")
        assert macat(f"--{protocol}", "--connect", address, "-Dend") == (0, b"", "")
        assert [taker.recv() for _ in range(number + 1)] == [b"x"] * number + [b"end"]


def test_what_was_sent_is_drained_by_linger_and_no_sleep(macat: Says) -> None:
    """Ten megabytes, which no fixed time is right for, to a reader that begins when macat is done sending."""
    with sp.Pull(listen="tcp://127.0.0.1:0", readq_len=1, recv_deadline=WAIT) as pull, ThreadPoolExecutor(1) as reader:
        received = reader.submit(lambda: [len(pull.recv()) for _ in range(100)])
        address = pull.listeners[0].address
        assert macat("--push", "--connect", address, "-D", "x" * 100_000, "--count", "100") == (0, b"", "")
        assert received.result(WAIT) == [100_000] * 100


def test_count_ends_an_exchange(macat: Says, beside: ThreadPoolExecutor) -> None:
    with sp.Rep(listen="inproc://macat-exchange", recv_deadline=WAIT) as rep:
        asked = beside.submit(lambda: [answer(rep, b"%d" % number) for number in range(3)])
        flags = ["-D", "x", "-i", "20ms", "--count", "3", "-A"]
        code, out, _ = macat("--req", "--connect", "inproc://macat-exchange", *flags)
        assert asked.result(WAIT) == [b"x"] * 3
        assert code == 0
        assert set(out.split()) <= {b"0", b"1", b"2"}  # a reply that took longer than the interval is not waited for
        assert macat("--req", "--connect", "inproc://macat-exchange", "--count", "0") == (0, b"", "")


def test_an_interval_without_a_count_has_no_end(beside: ThreadPoolExecutor) -> None:
    """It would push for ever; here until nobody takes anything any more."""
    with sp.Pull(listen="inproc://macat-for-ever", recv_deadline=WAIT) as pull:
        flags = ["--send-interval", "1ms", "--send-timeout", "50ms", "-Dx"]
        code = beside.submit(main, ["--push", "--connect", "inproc://macat-for-ever", *flags])
        assert [pull.recv() for _ in range(20)] == [b"x"] * 20
        assert not code.done()
        pull.close()
        assert code.result(WAIT) == 1


@pytest.mark.parametrize(("protocol", "taker"), [("push", sp.Pull), ("pair", sp.Pair)])
def test_a_negative_interval_is_none(macat: Says, protocol: str, taker: type[sp.Pull] | type[sp.Pair]) -> None:
    address = f"inproc://macat-negative-{protocol}"
    with taker(listen=address, recv_deadline=WAIT) as sock:
        assert macat(f"--{protocol}", "--connect", address, "-Dx", "-i", "-1", "--count", "3") == (0, b"", "")
        assert [sock.recv() for _ in range(3)] == [b"x"] * 3


def test_any_negative_count_is_without_end() -> None:
    turns = Talk(None, parse(["--count", "-2"]))._turns()  # type: ignore[arg-type]
    assert list(itertools.islice(turns, 10)) == [0.0] * 10


def test_a_receive_timeout_is_a_good_end(macat: Says) -> None:
    for protocol in ("pull", "sub", "pair", "pair1", "bus", "star", "rep", "respondent"):
        begin = time.monotonic()
        assert macat(f"--{protocol}", "--bind", "inproc://macat-quiet", "--recv-timeout", "20ms") == (0, b"", "")
        assert time.monotonic() - begin >= 0.02
    assert macat("--rep", "--bind", "inproc://macat-quiet", "--recv-timeout", "20ms", "-D", "x") == (0, b"", "")


def test_the_end_of_a_survey_is_a_good_end(macat: Says, beside: ThreadPoolExecutor) -> None:
    with sp.Respondent(listen="inproc://macat-survey", recv_deadline=WAIT) as respondent:
        asked = beside.submit(answer, respondent, b"me")
        assert macat("--surveyor", "--connect", "inproc://macat-survey", "-D", "who?", "-A") == (0, b"me\n", "")
        assert asked.result(WAIT) == b"who?"


def test_a_send_delay_comes_before_the_first_message(macat: Says) -> None:
    """Long enough for a subscriber to come."""
    with sp.Sub(subscribe=b"", dial_asynch=True, reconnect_time=0.01, recv_deadline=WAIT) as sub:
        sub.dial("inproc://macat-delay")
        begin = time.monotonic()
        assert macat("--pub", "--bind", "inproc://macat-delay", "--send-delay", "300ms", "-Dx") == (0, b"", "")
        assert time.monotonic() - begin >= 0.3
        assert sub.recv() == b"x"


def test_subscriptions(macat: Says, beside: ThreadPoolExecutor) -> None:
    def publish() -> None:
        eventually(lambda: pub.pipes, WAIT)
        for body in (b"a1", b"b1", b"c1", b"b2"):
            pub.send(body)

    for flags, shown in ([], b"a1\nb1\nc1\nb2\n"), (["--subscribe", "a", "--subscribe=b"], b"a1\nb1\nb2\n"):
        with sp.Pub(listen="inproc://macat-topics") as pub:
            done = beside.submit(publish)
            arguments = ["--sub", "--connect", "inproc://macat-topics", "-A", "--recv-timeout", "1s", *flags]
            assert macat(*arguments) == (0, shown, "")
            done.result(WAIT)


@pytest.mark.parametrize("protocol", ["pair", "pair1", "bus", "star"])
def test_who_has_data_sends_and_receives(macat: Says, beside: ThreadPoolExecutor, protocol: str) -> None:
    with getattr(sp, protocol.capitalize())(listen="inproc://macat-both", recv_deadline=WAIT) as peer:
        said = beside.submit(answer, peer, b"yours")
        arguments = [f"--{protocol}", "--connect", "inproc://macat-both", "-D", "mine", "-Q", "--recv-timeout", "1s"]
        assert macat(*arguments) == (0, b"yours\n", "")
        assert said.result(WAIT) == b"mine"


def test_a_reply_to_each_request(beside: ThreadPoolExecutor, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    arguments = ["--rep", "--bind", "inproc://macat-replies", "-D", "pong", "-A", "--recv-timeout", "1s"]
    code = beside.submit(main, arguments)
    with sp.Req(dial_asynch=True, reconnect_time=0.01) as req:
        req.dial("inproc://macat-replies")
        for number in range(3):
            req.send(b"%d" % number)
            assert req.recv(WAIT) == b"pong"
    assert code.result(WAIT) == 0
    assert capsysbinary.readouterr().out == b"0\n1\n2\n"


# --- what the original does not have


def test_statistics_are_the_last_ones(macat: Says) -> None:
    """After the drain: what had just been handed over is out by then."""
    with sp.Pull(listen="inproc://macat-last", recv_deadline=WAIT) as pull:
        code, _, err = macat("--push", "--connect", "inproc://macat-last", "-Dx", "--count", "50", "--stats")
        assert (code, err.splitlines()[0]) == (0, f"sent: 50 messages, {50 * 9} bytes")
        assert pull.recv() == b"x"


def test_what_is_lost_to_nobody_is_no_failure(macat: Says) -> None:
    """As always with PUB; the figures say it."""
    code, _, err = macat("--pub", "--bind", "inproc://macat-nobody", "-Dx", "--stats")
    assert (code, err.splitlines()[-1]) == (0, "dropped (no_peers): 1")


def test_statistics(macat: Says, beside: ThreadPoolExecutor) -> None:
    with sp.Rep(listen="inproc://macat-stats", recv_deadline=WAIT) as rep:
        beside.submit(answer, rep, b"pong")
        code, out, err = macat("--req", "--connect", "inproc://macat-stats", "-D", "ping", "--raw", "--stats")
    assert (code, out) == (0, b"pong")
    assert err.startswith("sent: 1 messages, ")
    assert "received: 1 messages, " in err


def test_raw_mode_shows_and_makes_headers(macat: Says, beside: ThreadPoolExecutor) -> None:
    with sp.Rep(listen="inproc://macat-raw", recv_deadline=WAIT) as rep:
        asked = beside.submit(answer, rep, b"pong")
        flags = ["--raw-mode", "-D", "ping", "--raw", "--recv-timeout", "1s"]
        assert macat("--req", "--connect", "inproc://macat-raw", *flags) == (0, b"\x80\x00\x00\x01pong", "")
        assert asked.result(WAIT) == b"ping"


def test_raw_mode_replies_by_the_header_that_came(beside: ThreadPoolExecutor) -> None:
    arguments = ["--rep", "--raw-mode", "--bind", "inproc://macat-xrep", "-D", "pong", "--recv-timeout", "1s"]
    code = beside.submit(main, arguments)
    with sp.Req(dial_asynch=True, reconnect_time=0.01) as req:
        req.dial("inproc://macat-xrep")
        req.send(b"ping")
        assert req.recv(WAIT) == b"pong"
    assert code.result(WAIT) == 0


@pytest.mark.parametrize("protocol", ["pair1", "star"])
def test_raw_mode_counts_hops(macat: Says, protocol: str) -> None:
    with getattr(sp, protocol.capitalize())(listen="inproc://macat-hops", recv_deadline=WAIT) as peer:
        flags = ["--raw-mode", "-D", "x", "--recv-timeout", "10ms"]
        assert macat(f"--{protocol}", "--connect", "inproc://macat-hops", *flags)[0] == 0
        assert peer.recv() == b"x"


# --- as a process


def test_a_second_macat(tmp_path: Path) -> None:
    """The command itself, both ends; the answering one ends by Ctrl-C, quietly."""
    path = str(tmp_path / "s")
    server = subprocess.Popen(
        [*COMMAND, "--rep", "-X", path, "-D", "pong", "-A"], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        eventually(lambda: os.path.exists(path), WAIT)
        done = subprocess.run(
            [*COMMAND, "--req", "-x", path, "-D", "ping", "-A"], env=ENV, capture_output=True, timeout=WAIT, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"pong\n", b"")
    finally:
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=WAIT)
    assert (server.returncode, out, err) == (130, b"ping\n", b"")


def test_what_could_not_be_sent_is_said_and_is_a_failure() -> None:
    done = subprocess.run(
        [*COMMAND, "--push", "-L0", "-D", "x", "--stats"], env=ENV, capture_output=True, timeout=WAIT, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    said, *stats = done.stderr.decode().splitlines()
    assert said.startswith("macat: push socket: 1 message was not sent within its LINGER of 1 s: nobody took it; ")
    assert stats == ["sent: 0 messages, 0 bytes", "received: 0 messages, 0 bytes", "dropped (closed): 1"]


def test_nobody_reads_the_output() -> None:
    """As with `macat … | head -1`."""
    with sp.Pub(listen="tcp://127.0.0.1:0") as pub:
        command = [*COMMAND, "--sub", "--connect", pub.listeners[0].address, "--raw"]
        process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        ended: Future[int] = Future()
        threading.Thread(target=lambda: ended.set_result(process.wait()), daemon=True).start()
        eventually(lambda: pub.send(b"x") or ended.done(), WAIT)
        assert (ended.result(WAIT), process.stderr.read()) == (1, b"")
        process.stderr.close()


# --- TLS


@pytest.fixture(scope="module")
def authority() -> Iterator[CertificateAuthority]:
    with CertificateAuthority() as made:
        yield made


def flags_of(files: CertificateFiles, authority: CertificateAuthority | None = None) -> list[str]:
    return ["-E", str(files.cert), "--key", str(files.key), *(["--cacert", str(authority.cert)] if authority else [])]


def served(tls: sp.TLSConfig, beside: ThreadPoolExecutor) -> sp.Rep:
    rep = sp.Rep(recv_deadline=WAIT, tls_config=tls)
    rep.listen("tls+tcp://127.0.0.1:0")
    beside.submit(answer, rep, b"pong")
    return rep


@pytest.mark.parametrize("how", ["cacert", "insecure", "both ends", "one file", "nobody's word"])
def test_tls(
    macat: Says, beside: ThreadPoolExecutor, authority: CertificateAuthority, how: str, tmp_path: Path
) -> None:
    server, client = authority.server("127.0.0.1"), authority.client("alice")
    mutual = how in ("both ends", "one file")
    tls = sp.TLSConfig(server.cert, server.key, authority.cert if mutual else None)
    (tmp_path / "both.pem").write_bytes(client.cert.read_bytes() + client.key.read_bytes())
    flags = {
        "cacert": ["--cacert", str(authority.cert)],
        "insecure": ["-k"],
        "both ends": flags_of(client, authority),
        "one file": ["--cert", str(tmp_path / "both.pem"), "--cacert", str(authority.cert), "--insecure"],
        "nobody's word": ["--cacert", str(client.cert), "-k"],  # --cacert has precedence
    }[how]
    with served(tls, beside) as rep:
        code, out, err = macat("--req", "--connect", rep.listeners[0].address, "-A", "-D", "ping", *flags)
    if how == "nobody's word":
        assert (code, out) == (1, b"")
        assert err.startswith("macat: dial(tls+tcp://127.0.0.1:")
        assert "certificate" in err
        assert "--cacert FILE" in err
    else:
        assert (code, out, err) == (0, b"pong\n", "")


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_bound(beside: ThreadPoolExecutor, authority: CertificateAuthority, mutual: bool) -> None:
    """--cacert makes it demand certificates of those who dial."""
    port = free_port()
    flags = flags_of(authority.server("127.0.0.1"), authority if mutual else None)
    arguments = ["--pull", "--bind", f"tls+tcp://127.0.0.1:{port}", "--recv-timeout", "1s", *flags]
    code = beside.submit(main, arguments)
    alice = authority.client("alice")
    known = sp.TLSConfig(alice.cert, alice.key, authority.cert)
    unknown = sp.TLSConfig(ca=authority.cert)
    eventually(lambda: connects(port), WAIT)
    with sp.Push(tls_config=known if mutual else unknown) as push:
        push.dial(f"tls+tcp://127.0.0.1:{port}")
        push.send(b"x")
    if mutual:
        with sp.Push(tls_config=unknown) as push, pytest.raises(sp.SPError):
            push.dial(f"tls+tcp://127.0.0.1:{port}")
    assert code.result(WAIT) == 0


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_certificate_that_is_none(macat: Says) -> None:
    code, _, err = macat("--rep", "--bind", "tls+tcp://127.0.0.1:0", "--cert", __file__)
    assert code == 1
    assert "test_macat.py" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("files", ["cert", "cacert", "another's key"])
def test_tls_is_set_up_first_whatever_the_address_is(macat: Says, authority: CertificateAuthority, files: str) -> None:
    flags = {
        "cert": ["--cert", __file__],
        "cacert": ["--cacert", __file__],
        "another's key": ["--cert", str(authority.server().cert), "--key", str(authority.client("alice").key)],
    }
    code, out, err = macat(*flags[files])  # no socket type, no address: that would come after it
    assert (code, out) == (1, b"")
    assert ("is not the key of cert" if files == "another's key" else "test_macat.py") in err
    assert "protocol not specified" not in err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--rep", "-X", "/nowhere at all/x"], "No such file or directory; make the folder first"),
        (["--rep", "--bind", "tcp://192.0.2.1:0"], "Cannot assign requested address; listen at an address of this"),
    ],
)
def test_hints_on_addresses_are_for_malformed_ones(macat: Says, arguments: list[str], hint: str) -> None:
    _, _, err = macat(*arguments)
    assert hint in err
    assert "addresses look like" not in err


def test_websockets(macat: Says, beside: ThreadPoolExecutor) -> None:
    with sp.Rep(listen="ws://127.0.0.1:0/x", recv_deadline=WAIT) as rep:
        beside.submit(answer, rep, b"pong")
        assert macat("--req", "--connect", rep.listeners[0].address, "-A", "-D", "ping") == (0, b"pong\n", "")

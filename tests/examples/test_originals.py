"""The examples that mangos has: what they take, and what they print."""

from __future__ import annotations

import contextlib
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.programs import ENV, EXAMPLES, WAIT, Program, addresses, listening

DATE = r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}"


@pytest.fixture
def url() -> Iterator[str]:
    with addresses(1) as (only,):
        yield only


def test_pair(url: str) -> None:
    with Program("pair.py", "node0", url) as node0:
        listening(url)
        with Program("pair.py", "node1", url) as node1:
            node0.shows('node0: RECEIVED: "node1"')
            node1.shows('node1: RECEIVED: "node0"')
            node0.shows('node0: SENDING "node0"')
            node1.shows('node1: SENDING "node1"')


def test_reqrep(url: str) -> None:
    with Program("reqrep.py", "node0", url) as node0:
        listening(url)
        with Program("reqrep.py", "node1", url) as node1:
            asked, received = node1.ended()
        assert asked == "NODE1: SENDING DATE REQUEST DATE"
        date = received.removeprefix("NODE1: RECEIVED DATE ")
        assert re.fullmatch(DATE, date)
        node0.shows(f"NODE0: SENDING DATE {date}")
        assert node0.lines[0] == "NODE0: RECEIVED DATE REQUEST"


def test_pipeline(url: str) -> None:
    with Program("pipeline.py", "node0", url) as node0:
        listening(url)
        for message in ("Hello, World.", "STOP"):
            with Program("pipeline.py", "node1", url, message) as node1:
                assert node1.ended() == [f'NODE1: SENDING "{message}"']
        assert node0.ended() == ['NODE0: RECEIVED "Hello, World."', 'NODE0: RECEIVED "STOP"', "NODE0: STOPPING"]


def test_pubsub(url: str) -> None:
    with Program("pubsub.py", "server", url, "server") as server:
        listening(url)
        with Program("pubsub.py", "client", url, "client0") as one, Program("pubsub.py", "client", url, "c1") as other:
            shown = one.shows(rf"CLIENT\(client0\): RECEIVED {DATE}")
            other.shows(rf"CLIENT\(c1\): RECEIVED {DATE}")
            server.shows(re.escape("SERVER: PUBLISHING DATE " + shown.partition("RECEIVED ")[2]))


def test_survey(url: str) -> None:
    with Program("survey.py", "client", url, "client0") as one, Program("survey.py", "server", url, "server") as server:
        server.shows(rf'SERVER: RECEIVED "{DATE}" SURVEY RESPONSE')
        server.shows("SERVER: SENDING DATE SURVEY REQUEST")
        server.shows("SERVER: SURVEY OVER")
        one.shows(r'CLIENT\(client0\): RECEIVED "DATE" SURVEY REQUEST')
        one.shows(r"CLIENT\(client0\): SENDING DATE SURVEY RESPONSE")


def test_bus() -> None:
    with addresses(3) as urls, contextlib.ExitStack() as stack:
        around = [[*urls[number:], *urls[:number]][:2] for number in range(3)]
        nodes = [stack.enter_context(Program("bus.py", f"node{number}", *around[number])) for number in range(3)]
        for number, node in enumerate(nodes):
            node.shows(f"node{number}: SENDING 'node{number}' ONTO BUS")
            for other in {0, 1, 2} - {number}:
                node.shows(f'node{number}: RECEIVED "node{other}" FROM BUS')


def test_raw(url: str) -> None:
    with Program("raw.py", "server", url, "4") as server:
        listening(url)
        with Program("raw.py", "client", url, "12") as client:
            answers = [re.fullmatch(r"Client: ([ \d]{4})   Server: ([ \d]{4})", line) for line in client.ended()]
        assert sorted(int(answer[1]) for answer in answers if answer) == list(range(12))
        assert {int(answer[2]) for answer in answers if answer} <= set(range(4))
        assert server.lines == []


def test_context(url: str) -> None:
    with Program("context.py", "server", url) as server:
        listening(url)
        with contextlib.ExitStack() as stack:
            names = ("John", "Bill", "Mary")
            for client in [stack.enter_context(Program("context.py", "client", url, name)) for name in names]:
                sent, received = client.ended()
                name = sent.partition("'")[2].rstrip("'")
                assert re.fullmatch(rf"(Client \d+): Sending message '{name}'", sent)
                assert received == sent.partition(":")[0] + f": Received response 'Hello, {name}'"
                worker = server.shows(rf"Worker \d+: Received request '{name}'").partition(":")[0]
                server.shows(rf"{worker}: Sending response 'Hello, {name}'")
        kinds = Counter(line.split()[2] for line in server.lines)
        assert kinds == {"Received": 3, "Sleeping": 3, "Sending": 3}


@pytest.mark.alike
@pytest.mark.parametrize("name", ["pair", "reqrep", "pipeline", "pubsub", "survey", "bus", "raw", "context"])
def test_mistakes(name: str) -> None:
    """Without arguments it says how it is used; nobody there is said in a sentence."""
    script = str(EXAMPLES / f"{name}.py")
    dialing = {"pubsub": "client", "raw": "client", "context": "client"}.get(name, "node1")
    for arguments in ([], [dialing, "tcp://127.0.0.1:1", "x"][: 2 if name in ("pair", "reqrep", "raw") else 3]):
        if arguments and name in ("survey", "bus"):
            continue
        done = subprocess.run(
            [sys.executable, script, *arguments], env=ENV, capture_output=True, text=True, timeout=WAIT, check=False
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith(f"{name}.py: dial " if arguments else f"usage: {name}.py ")


@pytest.mark.alike
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("websocket", ["req", "1"], "websocket.py: dial ws://127.0.0.1:1/req"),
        ("websocket", ["static", "1"], "websocket.py: <urlopen error"),
        ("broker", ["--front", "nowhere"], "broker.py: 'nowhere' has no scheme"),
        ("digest", ["--workers", "0", "--limit", "1"], "digest.py: workers wants"),
        ("with_asyncio", ["9" * 5000], "usage: with_asyncio.py [REQUESTS, "),
        ("raw", ["server", "tcp://127.0.0.1:0", "9" * 5000], "usage: raw.py"),
        ("pipeline", ["node1", "tcp://127.0.0.1:0", "caf\udce9"], "pipeline.py: "),
        ("with_asyncio", ["many"], "usage: with_asyncio.py [REQUESTS, "),
        ("digest", ["--clients", "0"], "argument --clients: 0 is less than 1"),
        ("digest", ["--clients", "101"], "101 clients are more than 100"),
        ("digest", ["--limit", "-5"], "argument --limit: -5 is less than 1"),
        ("imports", ["--files", "0"], "--files 0: there is nothing to be read"),
        ("imports", ["--files", "3", "--output", "/nonexistent/x"], "imports.py: [Errno 2] No such file or directory"),
        ("imports", ["--files", "3", "--checkpoint", "/nonexistent/x"], "imports.py: checkpoint /nonexistent/x: there"),
        ("websocket", ["server", "0", "--every", "-1"], "argument --every: -1 is no time"),
        ("websocket", ["server", "0", "--every", "nan"], "argument --every: nan is no time"),
    ],
)
def test_mistakes_of_others(
    name: str,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """In this process, as nothing of them outlives it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert words in f"{ended.value.code}\n{capsys.readouterr().err}"


@pytest.mark.alike
@pytest.mark.parametrize(
    "name", sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "call_format_client")
)
def test_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what the example is and how it is run, and nothing is wrong with that. (The client is a module.)"""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    except SystemExit as ended:
        if ended.code == 2 and name in ("dask_job", "with_trio"):  # what it needs is not installed here
            assert "this example needs" in capsys.readouterr().err
            return
        assert ended.code in (None, 0)
    shown = capsys.readouterr()
    assert f"{name}.py" in shown.out
    assert shown.err == ""

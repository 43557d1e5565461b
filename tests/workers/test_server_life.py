"""The life of a server: replaced workers, limits, logs, metrics; with real workers."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import eventually

from spworkers import errors
from spworkers.sockets import Rep, Req
from spworkers.testing import RawPeer
from spworkers.workers import callformat
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.contextpool import ContextPool
from spworkers.workers.measures import BOUNDS, OTHER, Measures
from spworkers.workers.middleware.base import Middleware
from spworkers.workers.prometheus import Measured, MetricsServer, exposition
from spworkers.workers.reload import Reloader, source_files
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.server import Server

ANYWHERE = "tcp://127.0.0.1:0"
WAIT = 30.0

app = App("life")
log = logging.getLogger("life")


@app.handler
def pid() -> int:
    return os.getpid()


@app.handler
async def apid() -> int:
    await asyncio.sleep(0.001)
    return os.getpid()


@app.handler(retries=0)
def until(folder: Path, name: str) -> int:
    """Goes on until there is a file of that name."""
    (folder / f"{name}-began").touch()
    while not (folder / name).exists():
        time.sleep(0.01)
    return os.getpid()


@app.handler(retries=0)
def eats(folder: Path) -> None:
    """As much as there is, when it is told to."""
    (folder / "began").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    hoard = []
    while True:
        hoard.append(b"x" * (8 << 20))
        time.sleep(0.01)


@app.handler
def large(size: int) -> bytes:
    return bytes(size)


@app.handler
def count(n: int) -> Iterator[int]:
    yield from range(n)


@app.handler
def say(text: str, level: int = logging.INFO) -> None:
    log.log(level, text)


@app.handler
def raises() -> None:
    raise ValueError("no")


@app.handler
def shout(n: int) -> None:
    for number in range(n):
        log.warning("%d %s", number, "x" * 1000)


@app.handler
def fails() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("it failed")


@app.handler
def environment(name: str) -> str | None:
    return os.environ.get(name)


@app.handler
def processors() -> set[int]:
    return os.sched_getaffinity(0)


@app.handler
def grow(size: int, *, state: Any) -> int:
    state.hoard = [*getattr(state, "hoard", []), b"x" * size]
    return os.getpid()


def load(path: Path, version: str) -> None:
    path.write_text(
        textwrap.dedent(
            f"""
            import time
            import spworkers as sp
            app = sp.App("code")

            @app.handler
            def version():
                time.sleep(0.001)
                return {version!r}
            """
        )
    )


# --- replaced


def test_all_workers_are_replaced_and_no_request_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "code_of_a_server.py"
    load(module, "old")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import code_of_a_server as code  # type: ignore[import-not-found]

    stop, seen, failures = threading.Event(), [], []
    with code.app.serve(ANYWHERE, workers=2, block=False) as server, Client(server.address, timeout=WAIT) as client:

        def ask() -> None:
            while not stop.is_set():
                try:
                    seen.append(client.version())
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        before = {worker.pid for worker in server.workers}
        load(module, "new!")
        server.restart()
        after = {worker.pid for worker in server.workers}
        seen.append("restarted")
        eventually(lambda: len(seen) - seen.index("restarted") > 50, WAIT)
        stop.set()
        for thread in threads:
            thread.join(WAIT)
        assert failures == []
        assert not before & after
        assert not any(psutil.pid_exists(pid) for pid in before)
        assert set(seen[seen.index("restarted") + 5 :]) == {"new!"}
        assert "old" in seen
        answered = server.answered
        assert answered >= len(seen) - 1

        module.write_text("1/0")
        with pytest.raises(errors.RemoteError, match="division by zero"):
            server.restart()
        assert {worker.pid for worker in server.workers} == after
        assert client.version() == "new!"
        with pytest.raises(errors.BadValueError, match="drain is -1"):
            server.reload(drain=-1)
        server.reload()  # the same, in a thread of its own, where it is logged
        eventually(lambda: server._reloads == 0, WAIT)
    for again in (server.restart, server.reload):
        with pytest.raises(errors.ClosedError):
            again()
    sys.modules.pop("code_of_a_server", None)


def test_a_worker_that_is_replaced_has_as_long_as_it_needs(tmp_path: Path) -> None:
    """Others are replaced meanwhile, and so is its successor."""
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        (first,) = {worker.pid for worker in server.workers}
        long = client.submit("until", tmp_path, "go")
        eventually((tmp_path / "go-began").exists, WAIT)
        thread = threading.Thread(target=server.restart)
        thread.start()
        eventually(lambda: server.workers[0].pid != first, WAIT)
        assert client.pid() != first
        assert thread.is_alive()
        (tmp_path / "go").touch()
        assert long.result(WAIT) == first
        thread.join(WAIT)
        assert not thread.is_alive()
        assert not psutil.pid_exists(first)


def test_a_worker_ends_with_the_stream_for_which_it_has_stayed() -> None:
    """Also one of an App that has plain handlers only: nothing else comes that could wake it."""
    plain = App("plain")

    @plain.handler
    def count(n: int) -> Iterator[int]:
        for number in range(n):
            time.sleep(0.03)  # a part each
            yield number

    with plain.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        (first,) = {worker.pid for worker in server.workers}
        stream = client.count(4)
        assert next(stream) == 0
        thread = threading.Thread(target=server.restart)
        thread.start()
        eventually(lambda: server.workers[0].pid not in (first, 0), WAIT)
        assert list(stream) == [1, 2, 3]
        thread.join(WAIT / 5)
        assert not thread.is_alive()
        eventually(lambda: not psutil.pid_exists(first), WAIT / 5)


class Witness(Middleware):
    """A file for each `after`, named by the process."""

    def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
        (request.args[0] / f"after-{os.getpid()}").touch()


def test_a_forked_child_calls_no_hooks(tmp_path: Path) -> None:
    forking = App("forking", middleware=[Witness()])

    @forking.handler
    def fork(folder: Path, raises: bool) -> int:
        child = os.fork()
        if child == 0:
            if raises:
                raise ValueError("in the child")
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with (
        forking.serve(ANYWHERE, workers=1, block=False, metrics=True) as server,
        Client(server.address, timeout=WAIT) as client,
    ):
        assert [client.call("fork", tmp_path, raises) for raises in (False, True)] == [70, 70]
        (worker,) = server.workers
        assert [path.name for path in tmp_path.iterdir()] == [f"after-{worker.pid}"]
        assert 'spworkers_handler_calls_total{app="forking",handler="fork"} 2' in server.metrics()


def test_predecessors_finish_however_often_a_worker_is_replaced(tmp_path: Path) -> None:
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address) as client:
        group: Any = server._pool._group
        group._generations = 5  # of nine, one of them for who starts: each takes its time
        futures, pids, ends = [], [], []
        for number in range(3):
            pids.append(server.workers[0].pid)
            futures.append(client.submit("until", tmp_path, f"go{number}"))
            eventually((tmp_path / f"go{number}-began").exists, WAIT)
            ends.append(group._replace(0, math.inf, WAIT))
        assert client.call("pid", timeout=WAIT) == server.workers[0].pid
        assert len({*pids, server.workers[0].pid}) == 4
        with pytest.raises(errors.RecvTimeoutError):
            group._replace(0, math.inf, 0.0)  # it cannot start that fast, and nobody is ended for it
        assert len(group._leaving) == 3
        assert not any(future.done() for future in futures)
        ends.append(group._replace(0, 0.1, WAIT))  # there is no room for a fifth: the first is ended
        assert isinstance(futures[0].exception(WAIT), errors.WorkerDiedError)
        (tmp_path / "go2").touch()
        ends[2].join(WAIT)
        assert futures[2].result(0) == pids[2]
        ends.append(group._replace(0, math.inf, WAIT))  # there is now
        (tmp_path / "go1").touch()
        assert futures[1].result(WAIT) == pids[1]
        for end in ends:
            end.join(WAIT)
        assert group._leaving == {}
        assert server.answered == 3


def test_a_worker_that_leaves_has_its_memory_limit(tmp_path: Path) -> None:
    with (
        app.serve(ANYWHERE, workers=1, block=False, memory_limit="200MB") as server,
        Client(server.address, timeout=WAIT) as client,
    ):
        (first,) = {worker.pid for worker in server.workers}
        hungry = client.submit("eats", tmp_path)
        eventually((tmp_path / "began").exists, WAIT)
        server.reload()
        eventually(lambda: server.workers[0].pid not in (first, 0), WAIT)
        (tmp_path / "go").touch()
        assert isinstance(hungry.exception(WAIT), errors.WorkerDiedError)


@pytest.mark.parametrize("drain", [0.0, 0.2])
def test_the_end_does_not_wait_for_a_worker_that_was_replaced(
    tmp_path: Path, drain: float, caplog: pytest.LogCaptureFixture
) -> None:
    server = app.serve(ANYWHERE, workers=2, block=False, retries=9)
    with Client(server.address, timeout=WAIT) as client:
        before = {worker.pid for worker in server.workers}
        for number in range(8):
            client.submit("until", tmp_path, f"never{number % 2}")
        eventually(lambda: all((tmp_path / f"never{n}-began").exists() for n in range(2)), WAIT)
        server.reload()
        eventually(lambda: not before & {worker.pid for worker in server.workers}, 2 * WAIT)
        begun = time.monotonic()
        server.close(drain)
        assert time.monotonic() - begun < WAIT / 3
        assert not any(psutil.pid_exists(pid) for pid in before)
    assert "killed" not in caplog.text  # a request that was at hand is not to blame for that


def test_the_end_does_not_wait_for_a_successor_that_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "code_that_hangs.py"
    load(module, "old")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import code_that_hangs as code  # type: ignore[import-not-found]

    server = code.app.serve(ANYWHERE, workers=1, block=False)
    started = tmp_path / "started"
    module.write_text(f"open({str(started)!r}, 'w')\nimport time; time.sleep(1000)")
    server.reload()
    eventually(started.exists, WAIT)
    server.close(0)
    eventually(lambda: server._reloads == 0, WAIT)
    sys.modules.pop("code_that_hangs", None)


def test_a_stream_survives_the_replacement_of_its_worker() -> None:
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        stream = client.count(50_000)
        assert next(stream) == 0
        thread = threading.Thread(target=server.restart)
        thread.start()
        eventually(lambda: len({client.pid() for _ in range(3)} - {server.workers[0].pid}) == 0, WAIT)
        assert sum(1 for _ in stream) == 49_999
        thread.join(WAIT)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["pid", "apid"])
def test_max_tasks(name: str) -> None:
    local = App("local")
    local.handler(app.handlers[name].function)
    with local.serve(ANYWHERE, workers=2, block=False, max_tasks=20, max_tasks_jitter=5) as server:
        with Client(server.address, timeout=WAIT) as client:
            futures = [client.submit(name) for _ in range(200)]
            pids = [future.result(WAIT) for future in futures]
            assert all(pids.count(each) <= 20 + 5 + 100 for each in pids)
            assert len(set(pids)) >= 3


def test_a_worker_that_has_grown_is_replaced_between_requests() -> None:
    with app.serve(ANYWHERE, workers=1, block=False, memory_limit="200MB") as server:
        with Client(server.address, timeout=WAIT) as client:
            first = client.pid()
            eventually(lambda: client.grow(2_000_000) != first, WAIT)


@pytest.mark.once
def test_a_limit_that_a_worker_is_beyond_at_its_start_is_told_at_once() -> None:
    with pytest.raises(errors.RemoteError, match=r"memory_limit of \w+ is 9 MiB, but a worker uses \d+ MiB before"):
        app.serve(ANYWHERE, workers=1, block=False, memory_limit="9MB")


def test_threads_and_affinity() -> None:
    with app.serve(ANYWHERE, workers=2, block=False, threads_per_worker=1, affinity=True) as server:
        with Client(server.address, timeout=WAIT) as client:
            assert client.environment("OMP_NUM_THREADS") == "1"
            assert client.environment("OPENBLAS_NUM_THREADS") == "1"
            assert all(len(client.processors()) == 1 for _ in range(5))


# --- logs


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    level = log.level
    log.setLevel(logging.INFO)
    with app.serve(ANYWHERE, workers=2, block=False, metrics=True) as running:
        yield running
    log.setLevel(level)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, timeout=WAIT) as client:
        yield client


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "life"]


def test_log_records_come_out_of_the_parent(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(50):
        client.say(f"number {number}")
    client.say("not this one", logging.DEBUG)
    client.fails()
    eventually(lambda: len(records(caplog)) >= 51, WAIT)
    found = records(caplog)
    assert [record.getMessage() for record in found] == [*(f"number {n}" for n in range(50)), "it failed"]
    assert {record.processName for record in found} <= {"life-1", "life-2"}
    assert len({record.request for record in found}) == 51  # type: ignore[attr-defined]
    assert {record.handler for record in found} == {"say", "fails"}  # type: ignore[attr-defined]
    assert found[0].process != os.getpid()
    assert "ValueError: inner" in (found[-1].exc_text or "")
    assert found[0].filename == "test_server_life.py"


def test_a_flood_of_records_holds_up_nobody(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.shout(5000)

    def came() -> int:
        client.say("after the flood")  # what was dropped is told by the next record of the same worker
        numbers = [int(r.getMessage().split()[0]) for r in records(caplog) if r.levelno == logging.WARNING]
        assert numbers == sorted(numbers)
        drops = [r.args for r in caplog.records if "were dropped" in r.msg]
        return len(numbers) + sum(args[1] for args in drops if isinstance(args, tuple) and isinstance(args[1], int))

    eventually(lambda: came() >= 5000, WAIT)
    assert came() < 5100  # among those that were dropped may be some of ours


# --- health and metrics


def test_health(server: Server, client: Client) -> None:
    answer = client.call("sp.health")
    assert answer == {"status": "ok", "app": "life", "pid": answer["pid"]}
    assert answer["pid"] in {worker.pid for worker in server.workers}
    assert server.healthy(WAIT)
    assert len(server.addresses) == 1


@pytest.mark.parametrize(("timeout", "says"), [("x", "timeout"), (-1, "timeout is -1; it has to be 0 seconds or more")])
def test_health_within_no_time(server: Server, timeout: Any, says: str) -> None:
    with pytest.raises(errors.BadValueError, match=says):
        server.healthy(timeout)


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=WAIT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics(server: Server, client: Client) -> None:
    for _ in range(10):
        client.pid()
    with pytest.raises(errors.RemoteError):
        client.raises()
    with MetricsServer("127.0.0.1:0", server.metrics, server.healthy) as shown:
        status, page = fetch(f"http://{shown.address}/metrics")
        assert fetch(f"http://{shown.address}/health") == (200, "ok\n")
        assert fetch(f"http://{shown.address}/")[0] == 404
        with pytest.raises(errors.AddrInUseError):
            MetricsServer(shown.address, server.metrics, server.healthy)
    assert status == 200
    lines = page.splitlines()
    assert 'spworkers_handler_errors_total{app="life",handler="raises"} 1' in lines
    value = next(line for line in lines if line.startswith('spworkers_handler_seconds_count{app="life",handler="pid"}'))
    assert int(value.split()[1]) >= 10
    assert any(line.startswith('spworkers_worker_answers_total{app="life",worker="life-1"} ') for line in lines)
    assert 'spworkers_connections{app="life"} ' in page


@pytest.mark.once
def test_the_exposition_is_what_prometheus_reads() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    fd = Measures.memory(2, 1)
    measures = Measures(fd, ['odd "name"\\'])
    measures.add(0, 'odd "name"\\', 0.002, False)
    measures.add(1, 'odd "name"\\', 700.0, True)
    handlers = Measured("", {"sent": 3, "drops": {"busy": 2}}, measures.totals())
    page = exposition('a\n"b"', [handlers, Measured("eat", {"sent": 4}, {})])
    os.close(fd)
    families = {family.name: family for family in parser.text_string_to_metric_families(page)}
    seconds = families["spworkers_handler_seconds"]
    assert seconds.type == "histogram"
    assert seconds.samples[-1].value == 2
    assert [sample.labels.get("part") for sample in families["spworkers_messages_sent"].samples] == [None, "eat"]
    assert families["spworkers_drops"].samples[0].labels == {"app": 'a\n"b"', "cause": "busy"}


def test_measures_add_up() -> None:
    fd = Measures.memory(3, 2)
    measures = Measures(fd, ["one", "two"])
    for worker in range(3):
        measures.add(worker, "one", 0.0002, failed=worker == 1)
        measures.add(worker, "two", 1000.0, failed=False)
    assert OTHER not in measures.totals()
    measures.add(0, "new", 0.5, failed=False)
    totals = Measures(fd, ["one", "two"]).totals()
    os.close(fd)
    assert (totals["one"].calls, totals["one"].failed, totals["one"].buckets[1]) == (3, 1, 3)
    assert totals["two"].buckets[len(BOUNDS)] == 3
    assert totals["two"].seconds == pytest.approx(3000.0)
    assert totals[OTHER].calls == 1


@pytest.mark.parametrize("address", ["here", "127.0.0.1", "1.2.3.4:x", "1.2.3.4:70000", None, 9090])
def test_metrics_need_an_address(address: Any) -> None:
    with pytest.raises(errors.BadValueError, match=r"127\.0\.0\.1:9090"):
        MetricsServer(address, str, bool)


# --- reload


def test_changed_files_are_noticed(tmp_path: Path) -> None:
    file, changed = tmp_path / "a.py", []
    file.write_text("1")
    reloader = Reloader(lambda: tmp_path.glob("*.py"), changed.append)
    try:
        file.write_text("12")
        eventually(lambda: changed == [file], WAIT)
        (tmp_path / "b.py").touch()
        eventually(lambda: changed == [file, tmp_path / "b.py"], WAIT)
        file.unlink()
        eventually(lambda: len(changed) == 3, WAIT)
    finally:
        reloader.close()


def test_the_users_own_files_are_watched() -> None:
    files = source_files(__name__)
    assert Path(__file__).resolve() in files
    assert Path(pytest.__file__).resolve() not in files
    assert Path(logging.__file__).resolve() not in files


# --- its I/O process dies


def answers_to_who_reads_late(server: Server, first: int) -> int:
    """How many of 60 large answers a peer gets that reads when all are made."""
    before = server.answered
    with RawPeer.dial(server.address, "req", timeout=WAIT) as peer:
        for number in range(first, first + 60):
            call = callformat.encode_call(number, "large", [50_000], {})
            peer.send((0x80000000 | number).to_bytes(4, "big") + call)
        eventually(lambda: server.answered >= before + 60, WAIT)
        return sum(len(peer.recv()) > 50_000 for _ in range(60))


def test_the_successor_of_a_servers_io_process_keeps_as_many_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")
    with app.serve(ANYWHERE, workers=2, block=False) as server:
        assert answers_to_who_reads_late(server, 1) == 60
        generation = server.stats()["generation"]
        os.kill(server.stats()["pid"], signal.SIGKILL)
        eventually(lambda: server.stats()["generation"] > generation, WAIT)
        assert answers_to_who_reads_late(server, 1001) == 60
        assert server.stats()["drops"].get("congested", 0) == 0


def loud(body: bytes) -> bytes:
    return body.upper()


def test_a_second_pool_of_a_socket_is_not_draining_after_a_death() -> None:
    """As the first one was at its end."""
    with Rep(listen=ANYWHERE) as rep, Req(dial=rep.listeners[0].address, retry_time=0.5) as req:
        with ContextPool(rep, loud, workers=1):
            req.send(b"one", timeout=WAIT)
            assert req.recv(timeout=WAIT) == b"ONE"
        with ContextPool(rep, loud, workers=1):
            generation = rep.stats()["generation"]
            os.kill(rep.stats()["pid"], signal.SIGKILL)
            eventually(lambda: rep.stats()["generation"] > generation, WAIT)
            req.send(b"two", timeout=WAIT)
            assert req.recv(timeout=WAIT) == b"TWO"

"""Apps that are served: workers, their deaths and ends, peers of other libraries."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from helpers import eventually

from spworkers import errors
from spworkers.sockets import Rep, Req
from spworkers.testing import greeting
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.contextpool import ContextPool
from spworkers.workers.server import Server
from spworkers.workers.worker import _tell_failure

ANYWHERE = "tcp://127.0.0.1:0"
WAIT = 20.0  # seconds: far more than anything here takes

app = App("calc")


@app.handler
def add(a: int, b: int) -> int:
    return a + b


@app.handler
def pid() -> int:
    return os.getpid()


@app.handler
async def later(value: Any) -> Any:
    await asyncio.sleep(0.001)
    return value


@app.handler
def hold(folder: Path) -> int:
    """Says that it began, and returns its worker's pid when it is let go."""
    (folder / f"began-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return os.getpid()


@app.handler
def die(status: int = 3) -> None:
    os._exit(status)


@app.handler
def calls(*, state: Any) -> int:
    state.calls += 1
    return int(state.calls)


@app.on_start
def begin(state: Any) -> None:
    state.calls = 100


@app.raw
def reverse(body: bytes) -> bytes:
    if body == b"fail":
        raise ValueError("no such luck")
    if body == b"die":
        os._exit(3)
    return body[::-1]


@pytest.fixture
def server() -> Iterator[Server]:
    with app.serve(ANYWHERE, workers=2, block=False) as running:
        yield running


@pytest.fixture
def calc(server: Server) -> Iterator[Client]:
    with Client(server.address, timeout=WAIT) as client:
        yield client


def test_a_dropped_server_warns_and_goes_on() -> None:
    server = app.serve(ANYWHERE, workers=1, block=False)
    pool, rep, address = server._pool, server._rep, server.address
    with pytest.warns(ResourceWarning, match="<Server .*> was not closed, and goes on until the program ends"):
        del server
        gc.collect()
    with Client(address, timeout=WAIT) as client:
        assert client.call("add", 2, 3) == 5
    pool.close()
    rep.close()


def test_a_forked_child_may_close_and_the_server_goes_on(server: Server, calc: Client) -> None:
    assert calc.call("add", 1, 2) == 3
    child = os.fork()
    if not child:
        try:
            calc.close()
            server.close()
        finally:
            os._exit(7 if sys.exc_info()[0] is None else 1)
    status: list[int] = []
    waiter = threading.Thread(target=lambda: status.append(os.waitpid(child, 0)[1]))
    waiter.start()
    waiter.join(30)
    if waiter.is_alive():
        os.kill(child, signal.SIGKILL)
    waiter.join()
    assert os.waitstatus_to_exitcode(status[0]) == 7
    assert calc.call("add", 1, 2) == 3


def began(folder: Path) -> list[int]:
    """The workers that hold a request."""
    return [int(path.name.partition("-")[2]) for path in folder.glob("began-*")]


def held(folder: Path, number: int = 1) -> list[int]:
    """Wait until that many workers hold a request; their pids."""
    return eventually(lambda: pids if len(pids := began(folder)) >= number else None, WAIT)


# --- answers


def test_workers_answer(server: Server, calc: Client) -> None:
    assert calc.add(2, 3) == 5
    assert calc.later((1, {2})) == (1, {2})
    assert calc.calls() > 100
    pids = {worker.pid for worker in server.workers}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert {calc.pid() for _ in range(10)} == pids


def test_the_counts(server: Server, calc: Client) -> None:
    for number in range(10):
        calc.add(number, 1)
    with pytest.raises(errors.BadArgumentsError):
        calc.add("x", 1)
    eventually(lambda: server.answered == 11, WAIT)
    workers = server.workers
    assert [worker.name for worker in workers] == ["calc-1", "calc-2"]
    assert sum(worker.answered for worker in workers) == 11
    assert sum(worker.failed for worker in workers) == 1
    eventually(lambda: all(worker.state == "idle" for worker in server.workers), WAIT)
    assert server.stats()["workers"][0]["pid"] == workers[0].pid
    assert "calc: tcp://127.0.0.1:" in repr(server)
    assert "2 workers, 11 answered" in repr(server)


def test_large_arguments_and_results(calc: Client) -> None:
    large = bytes(5_000_000)
    assert calc.later(large) == large
    assert calc.raw(b"a" + large) == large + b"a"


def test_several_addresses(tmp_path: Path) -> None:
    with app.serve([ANYWHERE, f"ipc://{tmp_path}/calc"], workers=1, block=False) as server:
        assert server.addresses[1] == f"ipc://{tmp_path}/calc"
        assert ", 1 worker, 0 answered>" in repr(server)
        for address in server.addresses:
            with Client(address, timeout=WAIT) as client:
                assert client.add(1, 1) == 2


def test_an_app_of_a_function_is_served() -> None:
    factor = 3
    local = App("local")

    @local.handler
    def scale(x: int) -> int:
        return x * factor

    with local.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        assert client.scale(2) == 6


def test_on_stop_runs_in_every_worker(tmp_path: Path) -> None:
    local = App("local")

    @local.handler
    def nothing() -> None: ...

    @local.on_stop
    def end(state: Any) -> None:
        (tmp_path / str(os.getpid())).touch()

    with local.serve(ANYWHERE, workers=2, block=False) as server:
        pids = {str(worker.pid) for worker in server.workers}
    assert {path.name for path in tmp_path.iterdir()} == pids


# --- deaths


def test_a_request_whose_worker_is_killed_goes_to_another(
    server: Server, calc: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = calc.submit("hold", str(tmp_path))
    (victim,) = held(tmp_path)
    with caplog.at_level(logging.WARNING):
        os.kill(victim, signal.SIGKILL)
        other = next(each for each in held(tmp_path, 2) if each != victim)
    (tmp_path / "go").touch()
    assert answer.result(WAIT) == other
    eventually(lambda: victim not in {worker.pid for worker in server.workers}, WAIT)
    eventually(lambda: calc.pid() not in (victim, other), WAIT)  # its successor answers too
    assert f"(pid {victim}) died: killed by SIGKILL; it is replaced" in caplog.text


def test_without_retries_a_death_is_answered() -> None:
    with app.serve(ANYWHERE, workers=1, retries=0, block=False) as server:
        with Client(server.address, timeout=WAIT) as client:
            with pytest.raises(errors.WorkerDiedError, match="the worker that ran this request died"):
                client.die()
            assert client.add(1, 2) == 3


def test_a_request_that_kills_every_worker_ends_with_an_error(calc: Client) -> None:
    with pytest.raises(errors.WorkerDiedError, match="2 workers"):
        calc.die()
    assert calc.add(1, 2) == 3


def test_raw_requests_of_dead_workers_are_answered_with_nothing(calc: Client) -> None:
    assert calc.raw(b"die") == b""
    assert calc.raw(b"abc") == b"cba"


def test_sigterm_lets_a_worker_finish(server: Server, calc: Client, tmp_path: Path) -> None:
    answer = calc.submit("hold", str(tmp_path))
    (worker,) = held(tmp_path)
    os.kill(worker, signal.SIGTERM)
    assert calc.pid() != worker
    (tmp_path / "go").touch()
    assert answer.result(WAIT) == worker
    eventually(lambda: worker not in {each.pid for each in server.workers}, WAIT)
    assert began(tmp_path) == [worker]  # it ran once


def test_the_io_process_may_die(server: Server, calc: Client) -> None:
    assert calc.add(1, 2) == 3
    os.kill(server.stats()["pid"], signal.SIGKILL)
    assert calc.add(3, 4) == 7
    assert server.stats()["generation"] == 2


def test_the_supervisor_may_die(server: Server, calc: Client) -> None:
    assert calc.add(1, 2) == 3
    pids = {worker.pid for worker in server.workers}
    supervisor = psutil.Process(server.workers[0].pid).parent()
    assert supervisor is not None
    supervisor.kill()
    eventually(lambda: pids.isdisjoint(worker.pid for worker in server.workers), WAIT)
    assert calc.add(3, 4) == 7


# --- limits


def test_a_request_past_its_time_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    local = App("local")

    @local.handler
    def spin() -> None:
        time.sleep(1e6)

    @local.handler
    def quick() -> int:
        return 1

    def access() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == "spworkers.access"]

    caplog.set_level(logging.INFO, "spworkers.access")
    with local.serve(ANYWHERE, workers=1, timeout=0.2, retries=0, block=False, access_log=True) as server:
        with Client(server.address, timeout=WAIT) as client:
            with pytest.raises(errors.TaskTimeoutError) as caught:
                client.spin()
            assert caught.value.seconds == 0.2
            assert client.quick() == 1
            eventually(lambda: len(access()) == 2, WAIT)  # whoever has answered: a worker, or nobody
    lines = {record.getMessage().split()[0]: record for record in access()}
    assert lines["spin"].getMessage().endswith(" ms TaskTimeoutError")
    assert float(lines["spin"].getMessage().split()[1]) >= 200
    told: Any = lines["spin"]
    assert (told.levelname, told.worker, told.handler, len(told.request)) == ("WARNING", "local", "spin", 16)
    assert lines["quick"].levelname == "INFO"


def test_a_handlers_limits_are_its_own() -> None:
    local = App("local")

    @local.handler(timeout=0.2, retries=0)
    def spin() -> None:
        time.sleep(1e6)

    @local.handler(retries=0)
    def die() -> None:
        os._exit(3)

    @local.raw(timeout=0.2, retries=0)
    def raw(body: bytes) -> bytes:
        time.sleep(1e6)
        return body

    with local.serve(ANYWHERE, workers=2, retries=5, block=False) as server:
        with Client(server.address, timeout=WAIT) as client:
            with pytest.raises(errors.TaskTimeoutError) as caught:
                client.spin()
            assert caught.value.seconds == 0.2
            with pytest.raises(errors.WorkerDiedError, match="the worker that ran"):
                client.die()
            assert client.raw(b"x") == b""


def test_what_kills_workers_again_and_again_is_not_run_any_more(calc: Client) -> None:
    with pytest.raises(errors.WorkerDiedError):
        calc.die()
    with pytest.raises(errors.QuarantinedError):
        calc.die()
    with pytest.raises(errors.QuarantinedError, match="3 workers"):
        calc.die()
    with pytest.raises(errors.WorkerDiedError):  # other arguments are other work
        calc.die(4)
    assert calc.add(1, 2) == 3


def test_requests_past_the_backlog_are_busy(tmp_path: Path) -> None:
    with app.serve(ANYWHERE, workers=1, backlog=1, block=False) as server:
        with Client(server.address, timeout=WAIT) as client:
            first = client.submit("hold", str(tmp_path))
            held(tmp_path)
            second = client.submit("add", 1, 2)
            eventually(lambda: server.stats()["received"] == 2, WAIT)
            eventually(lambda: "BusyError" in outcome(lambda: client.call("add", 1, 2, 3, timeout=0.5)), WAIT)
            (tmp_path / "go").touch()
            assert first.result(WAIT)
            assert second.result(WAIT) == 3


def outcome(call: Callable[[], Any]) -> str:
    """What a call returns or raises."""
    try:
        return repr(call())
    except errors.SPError as error:
        return repr(error)


# --- the end


def test_close_answers_what_is_at_hand(tmp_path: Path) -> None:
    server = app.serve(ANYWHERE, workers=1, block=False)
    with Client(server.address, timeout=WAIT) as client:
        first = client.submit("hold", str(tmp_path))
        held(tmp_path)
        waiting = client.submit("add", 1, 2)
        eventually(lambda: server.stats()["received"] == 2, WAIT)
        closing = threading.Thread(target=server.close)
        closing.start()
        eventually(lambda: "BusyError" in outcome(lambda: client.call("add", 5, 6, timeout=0.5)), WAIT)
        assert not first.done()
        (tmp_path / "go").touch()
        assert first.result(WAIT)
        assert waiting.result(WAIT) == 3
        closing.join(WAIT)
        assert not closing.is_alive()
    server.close()  # a second time, nothing
    assert repr(server).startswith("<Server calc: closed")
    for use in (server.restart, server.reload, server.stats, server.metrics):
        with pytest.raises(errors.ClosedError, match=r"^server calc is closed$"):
            use()


def test_close_does_not_wait_longer_than_told(tmp_path: Path) -> None:
    server = app.serve(ANYWHERE, workers=1, block=False)
    (pid,) = [worker.pid for worker in server.workers]
    with Client(server.address, timeout=WAIT) as client:
        client.submit("hold", str(tmp_path))
        held(tmp_path)
        begin = time.monotonic()
        server.close(drain=0.2)
        assert time.monotonic() - begin < WAIT / 2
        assert not psutil.pid_exists(pid)


def test_wait_ends_with_close() -> None:
    server = app.serve(ANYWHERE, workers=1, block=False)
    waiting = threading.Thread(target=server.wait)
    waiting.start()
    server.close()
    waiting.join(WAIT)
    assert not waiting.is_alive()


# --- starts that fail


def failing(start: Callable[[Any], None]) -> App:
    local = App("local")
    local.handler(name="nothing")(lambda: None)
    local.on_start(start)
    return local


def test_a_failing_on_start_is_told_once_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def load(state: Any) -> None:
        raise FileNotFoundError("model.bin")

    with pytest.raises(errors.RemoteError, match=r"local-\d could not start: model.bin") as caught:
        failing(load).serve(ANYWHERE, workers=2, block=False)
    assert caught.value.type == "FileNotFoundError"
    assert "in load" in caught.value.traceback
    assert "runner.py" not in caught.value.traceback
    assert capfd.readouterr().err == ""


def test_a_mistake_that_has_no_line_of_the_users_is_told_by_its_message() -> None:
    """`spworkers serve` finds an annotation that cannot be read only in its workers."""
    told: dict[str, str] = {}

    class Reporter:
        def tell(self, kind: str, number: int, pid: int, **more: str) -> None:
            told.update(more)

    spec: Any = SimpleNamespace(number=0)
    reporter: Any = Reporter()
    _tell_failure(reporter, spec, errors.BadValueError("handler f: its annotations cannot be read"))
    assert told == {"type": "BadValueError", "message": "handler f: its annotations cannot be read", "traceback": ""}
    _tell_failure(reporter, spec, ValueError("whose?"))
    assert "ValueError: whose?" in told["traceback"]


@pytest.mark.slow
def test_workers_leave_nothing_open_in_development_mode(tmp_path: Path) -> None:
    script = tmp_path / "served.py"
    script.write_text(
        "import spworkers as sp\n"
        "app = sp.App('served')\n"
        "app.handler(name='add')(lambda a, b: a + b)\n"
        "with app.serve('tcp://127.0.0.1:0', workers=2, block=False) as server:\n"
        "    with sp.Client(server.address, timeout=30) as client:\n"
        "        assert client.add(1, 2) == 3\n"
    )
    home = str(Path(errors.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(script)],
        env={**os.environ, "PYTHONPATH": home},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr


def test_a_worker_that_dies_at_its_start_is_told() -> None:
    with pytest.raises(errors.WorkerDiedError, match="died while it started: exit code 7"):
        failing(lambda state: os._exit(7)).serve(ANYWHERE, workers=2, block=False)


def test_an_address_in_use_is_told(server: Server) -> None:
    with pytest.raises(errors.AddrInUseError):
        app.serve(server.address, workers=1, block=False)


def test_mistakes_are_told_before_anything_is_started() -> None:
    with pytest.raises(errors.BadValueError, match="no handler to serve"):
        App("empty").serve(ANYWHERE, block=False)
    for options in ({"workers": 0}, {"retries": -1}, {"backlog": -1}, {"timeout": 0}, {"workers": 1.5}):
        with pytest.raises(errors.BadValueError):
            app.serve(ANYWHERE, block=False, **options)  # type: ignore[arg-type]
    with pytest.raises(errors.BadValueError, match="block is True or False, not 'no'"):
        app.serve(ANYWHERE, block="no")  # type: ignore[call-overload]
    with pytest.raises(errors.BadOptionError, match=r"serve\(\) takes no name=: the server has its App's, calc"):
        app.serve(ANYWHERE, block=False, name="other")
    with app.serve(ANYWHERE, workers=1, block=False) as server:
        with pytest.raises(errors.BadValueError, match=r"wait\(\) has no timeout"):
            server.wait(5.0)  # type: ignore[arg-type]
    with pytest.raises(errors.BadValueError, match="workers is 5000; it may be 1000 at most"):
        app.serve(ANYWHERE, block=False, workers=5000)
    for drain, words in ((-1, "drain is -1; it has to be 0 seconds or more"), ("soon", "drain wants seconds")):
        with pytest.raises(errors.BadValueError, match=words):
            app.serve(ANYWHERE, block=False, drain=drain)  # type: ignore[arg-type]
        with Rep() as rep, ContextPool(rep, reverse, workers=1) as pool:
            for told in (pool.restart, pool.close):
                with pytest.raises(errors.BadValueError, match=words):
                    told(drain=drain)  # type: ignore[arg-type]
            with pytest.raises(errors.BadValueError, match="timeout is -1"):
                pool.restart(timeout=-1)
            assert not pool._closed


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("wrkers", r"there is no option 'wrkers'; did you mean 'workers'\?"),
        ("tmeout", "did you mean 'timeout'"),
        ("tls_confg", "did you mean tls_config"),
        ("qqq", "no option 'qqq'"),
        ("subscribe", "SUBSCRIBE"),
    ],
)
def test_a_misspelt_keyword_is_told_with_the_nearest(option: str, words: str) -> None:
    with pytest.raises(errors.BadOptionError, match=words):
        app.serve(ANYWHERE, block=False, **{option: 1})


# --- a pool on a socket of one's own


def backwards(body: bytes) -> bytes:
    return body[::-1]


def test_a_pool_answers_the_requests_of_a_socket() -> None:
    with Rep(listen=ANYWHERE) as rep, ContextPool(rep, backwards, workers=2) as pool:
        with Req(dial=rep.listeners[0].address) as req:
            for number in range(20):
                req.send(b"%d" % number)
                assert req.recv(timeout=WAIT) == str(number)[::-1].encode()
        # A worker counts what it has sent, so the last reply may be here first.
        eventually(lambda: pool.answered == 20 and "0 busy" in repr(pool), WAIT)
        assert repr(pool) == "<ContextPool backwards: 2 workers, 0 busy, 20 answered>"
        assert [worker.name for worker in pool.workers] == ["backwards-1", "backwards-2"]
    assert repr(pool) == "<ContextPool backwards: closed>"
    for use in (pool.drain, pool.restart):
        with pytest.raises(errors.ClosedError, match=r"^context pool backwards is closed$"):
            use()


def test_a_pool_wants_a_rep_and_a_function() -> None:
    with Rep(listen=ANYWHERE) as rep:
        with pytest.raises(errors.BadValueError, match="function or an App"):
            ContextPool(rep, 5)  # type: ignore[arg-type]
    with Rep(raw=True) as rep, pytest.raises(errors.BadValueError, match="not raw"):
        ContextPool(rep, backwards)
    with Req() as req, pytest.raises(errors.BadValueError, match="Rep"):
        ContextPool(req, backwards)  # type: ignore[arg-type]


# --- peers of other libraries


def ask(command: list[str]) -> bytes:
    return subprocess.run(command, capture_output=True, check=True, timeout=WAIT).stdout.strip()


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("nngcat") is None, reason="nngcat is not installed")
def test_nngcat_asks_the_raw_handler(server: Server) -> None:
    command = ["nngcat", "--req", "--dial", server.address, "--ascii", "--data"]
    assert ask([*command, "hello"]) == b"olleh"
    assert ask([*command, "fail"]) == b""


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("nanocat") is None, reason="nanocat is not installed")
def test_nanocat_asks_the_raw_handler(server: Server) -> None:
    assert ask(["nanocat", "--req", "--connect", server.address, "--ascii", "--data", "hello"]) == b"olleh"


def test_many_at_once(server: Server) -> None:
    """Threads, futures and tasks of several clients, all at the same time."""
    results: list[int] = []
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server.address, timeout=WAIT)) for _ in range(3)]

        def plain(client: Client) -> None:
            results.extend(client.add(number, 1) for number in range(100))

        def tasks(client: Client) -> None:
            async def main() -> None:
                results.extend(await asyncio.gather(*(client.acall("add", number, 1) for number in range(100))))

            asyncio.run(main())

        def futures(client: Client) -> None:
            submitted = [client.submit("add", number, 1) for number in range(100)]
            results.extend(future.result(WAIT) for future in submitted)

        threads = [
            threading.Thread(target=way, args=(client,)) for client in clients for way in (plain, tasks, futures)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert sorted(results) == sorted([number + 1 for number in range(100)] * 9)


@pytest.mark.once
@pytest.mark.parametrize(
    ("budget", "count", "size"),
    [
        pytest.param(64 << 20, 3, 20_000, id="by the number of answers"),
        pytest.param(1 << 20, 6, 100_000, id="by their bytes"),
    ],
)
def test_peers_that_read_no_answers_hold_up_no_worker_for_long(budget: int, count: int, size: int) -> None:
    """What each of them has in hand lies in the lane of the worker that gave it, beside what waits for it."""
    quiet = App("quiet")

    @quiet.raw
    def echo(body: bytes) -> bytes:
        return body

    @quiet.handler
    def add(a: int, b: int) -> int:
        return a + b

    numbers = itertools.count(1 << 31)

    def pour(sock: socket.socket) -> None:
        """Requests until nobody has read any for a while, or we are disconnected."""
        sock.settimeout(0.5)
        with contextlib.suppress(OSError):
            while True:
                sock.sendall((4 + size).to_bytes(8, "big") + next(numbers).to_bytes(4, "big") + bytes(size))

    serving = quiet.serve(ANYWHERE, workers=2, block=False, byte_budget=budget)
    with serving as server, contextlib.ExitStack() as stack:
        port = int(server.address.rpartition(":")[2])
        peers = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        threads = []
        for peer in peers:
            peer.sendall(greeting(0x30))  # of a REQ
            assert len(peer.recv(8)) == 8
            threads.append(threading.Thread(target=pour, args=(peer,), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(WAIT)
        with Client(server.address, timeout=WAIT) as client:

            def answered() -> bool:
                with contextlib.suppress(errors.BusyError):  # the last that were poured are not answered yet
                    return bool(client.add(1, 2) == 3)
                return False

            eventually(answered, WAIT)

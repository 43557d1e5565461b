"""`spworkers demo`: sockets, handlers, a killed worker, a pool, a pipeline and a comparison, before one's eyes.

Everything runs on this machine, over 127.0.0.1, and every figure is measured while it is shown.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import operator
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Final

import click
from rich.console import Console

from spworkers.cli.failures import fail, told
from spworkers.errors import WorkerDiedError
from spworkers.sockets import Rep, Req
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.pipeline.pipeline import Pipeline
from spworkers.workers.pool.executor import Pool
from spworkers.workers.server import Server

__all__ = ["app", "demo"]

PATIENCE: Final = 60.0
"""Seconds that one part may take; on any machine it takes less than some of them."""

BAD: Final = 13

app = App("demo")


@app.handler
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@app.handler
def whoami() -> int:
    """The process that answers."""
    return os.getpid()


def primes(first: int, count: int = 300) -> int:
    """How many of so many numbers are prime: some milliseconds of work."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(first, 2), first + count))


def primes_from(number: int) -> int:
    """The first stage of a pipeline; one of its items is bad."""
    if number == BAD:
        raise ValueError("not a good number")
    return primes(100_000 + 300 * number)


def die() -> None:
    """What a crash of a C library, or the kernel when memory is short, does to a worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def nap() -> None:
    """What takes its time, and no processor."""
    time.sleep(0.05)


@click.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=lambda: max(2, min(4, os.cpu_count() or 2)),
    show_default="processors, 2 to 4",
    help="Worker processes.",
)
@click.option("--quick", is_flag=True, help="A tenth of the work: to see that it runs, not how fast.")
def demo(workers: int, quick: bool) -> None:
    """Show in less than a minute what this is: sockets, handlers, a worker killed, a pool, a pipeline, a comparison.

    Nothing leaves this machine. The code of it is spworkers/cli/demo.py.
    """
    console = Console(highlight=False, soft_wrap=True)
    scale = 1 if quick else 10
    with told():
        _sockets(console, 100 * scale)
        _handlers(console, workers, 300 * scale)
        _pool(console, workers, 40 * scale)
        _pipeline(console, workers, 40 * scale)
        _comparison(console, workers, 200 * scale)
    console.print("\nFrom here: docs/tutorial.md, examples/, and `spworkers --help`.")


# --- the parts


def _sockets(console: Console, count: int) -> None:
    _title(console, "Sockets", "a REQ asks a REP over tcp; the I/O of each runs in a process of its own")
    times = []
    with Rep(listen="tcp://127.0.0.1:0") as rep, Req(dial=rep.listeners[0].address, recv_deadline=PATIENCE) as req:
        for _ in range(count):
            begin = time.perf_counter()
            req.send(b"ping")
            rep.recv(timeout=PATIENCE)
            rep.send(b"pong")
            req.recv()
            times.append(time.perf_counter() - begin)
        console.print(f"  {rep.listeners[0].address}, you are pid {os.getpid()},", end="")
        console.print(f" the I/O processes are {rep.stats()['pid']} and {req.stats()['pid']}")
    console.print(f"  {count:,} requests, one at a time: {statistics.median(times) * 1e6:,.0f} µs each (median)")


def _handlers(console: Console, workers: int, count: int) -> None:
    _title(console, "Handlers", f"functions that {workers} worker processes answer calls of; one of these is killed")
    with (
        app.serve("tcp://127.0.0.1:0", workers=workers, block=False) as server,
        Client(server.address, timeout=PATIENCE) as client,
    ):
        console.print(f"  add(2, 3) = {client.add(2, 3)}, answered by pid {client.whoami()}")
        before = _pids(server)
        begin = time.perf_counter()
        futures = [client.submit("add", number, number) for number in range(count // 2)]
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        console.print(f"  kill -9 {victim}, amid {count:,} calls")
        futures += [client.submit("add", number, number) for number in range(count // 2, count)]
        wrong = sum(future.result() != 2 * number for number, future in enumerate(futures))
        seconds = time.perf_counter() - begin
        if wrong:
            fail(f"{wrong:,} answers of {count:,} were wrong; please report it, with what `spworkers info` says")
        console.print(f"  {count:,} answers of {count:,}, all right: {count / seconds:,.0f} calls/s")
        _until(lambda: victim not in _pids(server) and len(_pids(server)) == workers, "the killed worker's successor")
        console.print(f"  its successor is {', '.join(map(str, sorted(_pids(server) - before)))}")


def _pids(server: Server) -> set[int]:
    return {worker.pid for worker in server.workers if worker.pid}


def _pool(console: Console, workers: int, count: int) -> None:
    _title(console, "A pool", f"concurrent.futures over shared memory; {count:,} tasks, results in order")
    with Pool(workers) as pool:
        numbers = range(100_000, 100_000 + 300 * count, 300)
        begin = time.perf_counter()
        found = sum(pool.map(primes, numbers, progress="primes" if console.is_terminal else False, timeout=PATIENCE))
        seconds = time.perf_counter() - begin
        console.print(f"  {found:,} primes from {numbers.start:,} to {numbers.stop:,}: {seconds:.2f} s")
        crash, fine = pool.submit(die), pool.submit(primes, 2, 98)
        problem = crash.exception(PATIENCE)
        console.print(f"  a task that kills its worker fails alone: {type(problem).__name__}: {problem}")
        console.print(f"  the one after it: {fine.result(PATIENCE)} primes below 100")


def _pipeline(console: Console, workers: int, count: int) -> None:
    _title(console, "A pipeline", f"a batch job of stages in the workers; {count:,} items, one of which is bad")
    stages = Pipeline("primes").read(range(count)).map(primes_from, workers=workers).batch(10).map(sum, workers=1)
    job = stages.fold(operator.add, 0)
    report = job.run(progress=console.is_terminal)
    for line in str(report).splitlines():
        console.print(f"  {line}")
    console.print(f"  {report.result:,} primes, and what failed is data: {report.failures[0]!r}, item {BAD}")
    again = job.run(report.failures.items())
    console.print(f"  run again, that alone: {again.read} read, {len(again.failures)} failed")


def _comparison(console: Console, workers: int, count: int) -> None:
    _title(console, "Beside the standard library", "measured now, workers already started")
    rows: dict[str, list[str]] = {}
    for make in (lambda: Pool(workers), lambda: _standard(workers)):
        with make() as pool:
            with _undisturbed():  # each of the first ones may start a process
                first = [pool.submit(nap) for _ in range(4 * workers)]
            wait(first, PATIENCE)  # imports this module as well
            for name, value in _measures(pool, count):
                rows.setdefault(name, []).append(value)
    for name, (ours, theirs) in {"": ["sp.Pool", "ProcessPoolExecutor"], **rows}.items():
        console.print(f"  {name:34} {ours:>22} {theirs:>22}")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Processes that are started meanwhile know no Ctrl-C: those of the standard library would print tracebacks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _standard(workers: int) -> ProcessPoolExecutor:
    # Not by fork, which is unsafe beside the threads of this process and no default any more.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _measures(pool: Executor, count: int) -> Iterator[tuple[str, str]]:
    one = _seconds(lambda: [pool.submit(abs, -1).result(PATIENCE) for _ in range(count // 4)])
    yield "one task at a time, µs each", f"{one / (count // 4) * 1e6:,.0f}"
    many = _seconds(lambda: wait([pool.submit(abs, -1) for _ in range(count)], PATIENCE))
    yield "small tasks submitted, per second", f"{count / many:,.0f}"
    mapped = _seconds(lambda: sum(pool.map(abs, range(2 * count), timeout=PATIENCE)))
    yield "items by map() as it is, per second", f"{2 * count / mapped:,.0f}"
    megabyte = bytes(1_000_000)
    large = _seconds(lambda: [pool.submit(len, megabyte).result(PATIENCE) for _ in range(max(count // 40, 5))])
    yield "a task with 1 MB, µs each", f"{large / max(count // 40, 5) * 1e6:,.0f}"
    yield "20 tasks, one kills its worker", _survivors(pool)


def _survivors(pool: Executor) -> str:
    futures: list[Future[None]] = []
    with contextlib.suppress(BrokenProcessPool):  # so soon that not even all can be submitted
        futures.extend(pool.submit(die) if number == 5 else pool.submit(nap) for number in range(20))
    wait(futures, PATIENCE)
    problems = [problem for future in futures if (problem := future.exception()) is not None]
    if any(not isinstance(problem, (WorkerDiedError, BrokenProcessPool)) for problem in problems):
        raise problems[0]
    done = len(futures) - len(problems)
    return f"{done} done, pool {'broken' if _broken(pool) else 'goes on'}"


def _broken(pool: Executor) -> bool:
    try:
        pool.submit(abs, -1).result(PATIENCE)
    except BrokenProcessPool:
        return True
    return False


# --- what the parts share


def _title(console: Console, name: str, about: str) -> None:
    console.print(f"\n[bold]{name}[/bold]: {about}")


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return max(time.perf_counter() - begin, 1e-9)


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            fail(f"{what} has not come within {PATIENCE:g} s; please report it, with what `spworkers info` says")
        time.sleep(0.01)

"""Pools side by side: spworkers, and those that people use, each in a process of its own, in turn, in one run.

    python -m benchmarks.pools [--rounds 5] [--peer NAME ...] [--scale 1.0]

Figures are medians over the rounds. The ratio is spworkers' figure against the best of the others, taken within each
round, then the median: above 1 spworkers is better. `cpu` is processor time of parent and workers for one of the tasks
that are submitted one by one: it depends less on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

import psutil

WORKERS: Final = 2
IDLE: Final = 0.5
"""Seconds for which workers have had nothing to do when their memory is looked at."""
MIB: Final = 1 << 20

FIGURES: Final = {
    "first": ("first result of a second pool", "ms", False),
    "p50": ("submit round trip, p50", "µs", False),
    "p99": ("submit round trip, p99", "µs", False),
    "one": ("no-op tasks, submitted one by one", "/s", True),
    "cpu": ("no-op tasks, processor time", "µs", False),
    "unordered": ("no-op tasks, map_unordered, chunksize 1", "/s", True),
    "auto": ("no-op tasks, map, chunks by itself", "/s", True),
    "argument": ("1 MiB of bytes as argument", "MiB/s", True),
    "result": ("1 MiB of bytes as result", "MiB/s", True),
    "array": ("1 MiB numpy array, there and back", "MiB/s", True),
    "memory": ("memory of an idle worker (USS)", "MiB", False),
}
"""Name of a figure → what it is, its unit, and whether more is better."""


def noop(*_: Any) -> None:
    """The task that costs nothing."""


def echo(value: Any) -> Any:
    """There and back."""
    return value


def make(size: int) -> bytes:
    """A large result."""
    return b"y" * size


class Peer:
    """One pool, by the few verbs that are measured."""

    def __init__(self, method: str) -> None:
        self.method = method

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """Hand one task over; what is returned waits for its result."""
        raise NotImplementedError

    def unordered(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        """Results as they come, no chunks; or nothing if there is no such thing."""
        return ()

    def auto(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        """A map with the chunks that are the pool's own choice, or that its users would choose."""
        return ()

    def close(self) -> None:
        """End it."""


class Spworkers(Peer):
    def __init__(self, method: str) -> None:
        import spworkers

        self.pool = spworkers.Pool(WORKERS, start_method=None if method == "supervisor" else method)

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return self.pool.submit(function, *args).result

    def unordered(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        return self.pool.map_unordered(function, items, chunksize=1)

    def auto(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        return self.pool.map(function, items)

    def close(self) -> None:
        self.pool.shutdown()


class Standard(Peer):
    def __init__(self, method: str) -> None:
        self.pool: Any = ProcessPoolExecutor(WORKERS, multiprocessing.get_context(method))

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        result: Callable[[], Any] = self.pool.submit(function, *args).result
        return result

    def auto(self, function: Callable[..., Any], items: Any) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(function, items, chunksize=len(items) // (4 * WORKERS))
        return results

    def close(self) -> None:
        self.pool.shutdown()


class Loky(Standard):
    def __init__(self, method: str) -> None:
        from loky import ProcessPoolExecutor as Executor

        self.pool = Executor(WORKERS)


class Multiprocessing(Peer):
    def __init__(self, method: str) -> None:
        self.pool = multiprocessing.get_context(method).Pool(WORKERS)

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return self.pool.apply_async(function, args).get

    def unordered(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        return self.pool.imap_unordered(function, items)

    def auto(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        return self.pool.map(function, items)

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Mpire(Peer):
    def __init__(self, method: str) -> None:
        from mpire import WorkerPool

        self.pool = WorkerPool(WORKERS, start_method=method, keep_alive=True)

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        result: Callable[[], Any] = self.pool.apply_async(function, args).get
        return result

    def close(self) -> None:
        self.pool.terminate()


class MpireMaps(Mpire):
    """Neither its apply and its map nor two kinds of map get on in one pool whose workers are kept."""

    def __init__(self, method: str) -> None:
        from mpire import WorkerPool

        self.pool = WorkerPool(WORKERS, start_method=method)

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        return lambda: None

    def unordered(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.imap_unordered(function, items, chunk_size=1)
        return results

    def auto(self, function: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(function, items)
        return results


class Pebble(Peer):
    def __init__(self, method: str) -> None:
        from pebble import ProcessPool

        self.pool = ProcessPool(WORKERS, context=multiprocessing.get_context(method))

    def submit(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        result: Callable[[], Any] = self.pool.schedule(function, args).result
        return result

    def auto(self, function: Callable[..., Any], items: Any) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(function, items, chunksize=len(items) // (4 * WORKERS)).result()
        return results

    def close(self) -> None:
        self.pool.stop()
        self.pool.join()


PEERS: Final[dict[str, tuple[type[Peer], str]]] = {
    "spworkers": (Spworkers, "supervisor"),
    "ProcessPoolExecutor fork": (Standard, "fork"),
    "ProcessPoolExecutor spawn": (Standard, "spawn"),
    "multiprocessing.Pool fork": (Multiprocessing, "fork"),
    "multiprocessing.Pool spawn": (Multiprocessing, "spawn"),
    "mpire fork": (Mpire, "fork"),
    "mpire fork, maps": (MpireMaps, "fork"),
    "loky": (Loky, "loky"),
    "Pebble fork": (Pebble, "fork"),
}


# --- In the child


def measure(name: str, scale: float) -> dict[str, float]:
    """All figures of one peer, in this process."""
    cls, method = PEERS[name]
    figures: dict[str, float] = {}
    tasks = int(5000 * scale)
    warm = cls(method)
    warm.submit(noop)()
    begun = time.perf_counter()
    second = cls(method)
    second.submit(noop)()
    figures["first"] = (time.perf_counter() - begun) * 1e3
    second.close()
    for each in [warm.submit(noop) for _ in range(300)]:
        each()
    singles = cls is not MpireMaps
    if singles:
        figures.update(trips(warm, tasks // 4))
        begun, used = time.perf_counter(), processor_time()
        for each in [warm.submit(noop, n) for n in range(tasks)]:
            each()
        figures["one"] = tasks / (time.perf_counter() - begun)
        figures["cpu"] = (processor_time() - used) / tasks * 1e6
        figures.update(large(warm, max(int(60 * scale), 4)))
    figures.update(maps(warm, tasks * 4))
    if singles:
        figures.update(idle_memory())
        warm.close()
        return figures
    warm.close()
    return {key: figures[key] for key in ("unordered", "auto") if key in figures}


def trips(peer: Peer, count: int) -> dict[str, float]:
    """One task at a time."""
    times = []
    for number in range(count):
        begun = time.perf_counter()
        peer.submit(noop, number)()
        times.append((time.perf_counter() - begun) * 1e6)
    times.sort()
    return {"p50": times[count // 2], "p99": times[int(count * 0.99)]}


def large(peer: Peer, count: int) -> dict[str, float]:
    """Arguments and results of a mebibyte."""
    data = bytes(MIB)
    found = {
        "argument": rate(peer, len, (data,), count),
        "result": rate(peer, make, (MIB,), count),
    }
    with contextlib.suppress(ImportError):
        import numpy as np

        found["array"] = rate(peer, echo, (np.zeros(MIB // 8),), count)
    return found


def rate(peer: Peer, function: Callable[..., Any], args: tuple[Any, ...], count: int) -> float:
    """Tasks a second, after a few that warm the memory."""
    for each in [peer.submit(function, *args) for _ in range(4)]:
        each()
    begun = time.perf_counter()
    for each in [peer.submit(function, *args) for _ in range(count)]:
        each()
    return count / (time.perf_counter() - begun)


def maps(peer: Peer, count: int) -> dict[str, float]:
    """Many items through one function."""
    found = {}
    for key, call, items in (("unordered", peer.unordered, count), ("auto", peer.auto, count * 20)):
        begun = time.perf_counter()
        done = sum(1 for _ in call(noop, range(items)))
        if done:
            found[key] = done / (time.perf_counter() - begun)
    return found


def family() -> Iterator[psutil.Process]:
    """This process and its descendants."""
    me = psutil.Process()
    yield from [me, *me.children(recursive=True)]


def processor_time() -> float:
    """Seconds that the family has used."""
    total = 0.0
    for process in family():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def idle_memory() -> dict[str, float]:
    """Of a worker that has had nothing to do for a moment: the median over the processes below us that are workers."""
    time.sleep(IDLE)
    sizes = []
    for process in list(family())[1:]:
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())  # of a forked worker, its parent's
            supervisor = "spworkers-supervisor" in line and process.ppid() == psutil.Process().pid
            if not supervisor and "resource_tracker" not in line:
                sizes.append(process.memory_full_info().uss / MIB)
    return {"memory": statistics.median(sizes)} if sizes else {}


# --- In the parent


def run(name: str, scale: float) -> dict[str, float] | None:
    """One peer once, in a fresh process; None: it is not installed, or it failed."""
    line = [sys.executable, "-m", "benchmarks.pools", "--one", name, "--scale", str(scale)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def table(rounds: list[dict[str, dict[str, float]]], names: list[str]) -> str:
    """All figures, as Markdown."""
    lines = ["| | " + " | ".join(names) + " | spworkers is better by |", "|---" * (len(names) + 2) + "|"]
    for key, (words, unit, more) in FIGURES.items():
        cells = []
        for name in names:
            values = [figures[name][key] for figures in rounds if key in figures.get(name, {})]
            cells.append(f"{statistics.median(values):,.4g}" if values else "–")
        ratios = []
        for figures in rounds:
            mine = figures.get("spworkers", {}).get(key)
            others = [found[key] for name, found in figures.items() if name != "spworkers" and key in found]
            if mine and others:
                ratios.append(mine / max(others) if more else min(others) / mine)
        better = f"{statistics.median(ratios):.2f}" if ratios else "–"
        lines.append(f"| {words} ({unit}) | " + " | ".join(cells) + f" | {better} |")
    return "\n".join(lines)


def main() -> None:
    """Measure everybody in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often everybody runs (5)")
    parser.add_argument("--peer", action="append", choices=list(PEERS), help="only this one (repeatable)")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the usual number of tasks")
    parser.add_argument("--one", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.scale)))
        return
    names = options.peer or list(PEERS)
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(options.rounds):
        order = names[number % len(names) :] + names[: number % len(names)]
        found = {name: figures for name in order if (figures := run(name, options.scale)) is not None}
        print(f"round {number + 1}: {', '.join(found)}", file=sys.stderr, flush=True)
        rounds.append(found)
    print(table(rounds, [name for name in names if any(name in each for each in rounds)]))


if __name__ == "__main__":
    main()

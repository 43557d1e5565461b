"""Functions for the tests of pools, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import spworkers as sp


class Bytes(bytes):
    """Bytes of a kind of their own."""


def double(x: Any) -> Any:
    return x * 2


def pid(*_: object) -> int:
    return os.getpid()


def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    threading.Event().wait()  # a signal to oneself need not come before the next line


def leave(code: int) -> None:
    os._exit(code)


def fail(text: str) -> None:
    raise LookupError(text)


def hang(mark: str = "") -> None:
    """Never returns; makes a file first, by which a test knows that it runs."""
    if mark:
        Path(mark).write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def wait_for(gate: str, mark: str) -> int:
    """Returns once there is a file `gate`; makes one first, by which a test knows that it runs."""
    Path(mark).touch()
    while not Path(gate).exists():
        time.sleep(0.01)
    return 1


def spin(mark: str = "") -> None:
    """As `hang`, in pure Python that never lets go."""
    if mark:
        Path(mark).write_text(str(os.getpid()))
    while True:
        pass


def die_at(item: int, mine: int) -> int:
    if item == mine:
        os._exit(9)
    return item


def die_if_bad(item: int) -> int:
    if item % 1000 == 500:
        os._exit(9)
    return item * 2


def fail_if_odd(item: int) -> int:
    if item % 2:
        raise ValueError(item)
    return item


def die_until(path: str, deaths: int) -> int:
    """Dies so many times, then returns how often it was tried."""
    file = Path(path)
    with file.open("a") as opened:
        opened.write("x")
    tried = len(file.read_text())
    if tried <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return tried


def fail_until(path: str, failures: int) -> int:
    with Path(path).open("a") as opened:
        opened.write("x")
    tried = len(Path(path).read_text())
    if tried <= failures:
        raise ConnectionError(tried)
    return tried


class OddInit(Exception):
    """Cannot be unpickled: its __init__ wants two arguments, and it keeps one."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raise_odd() -> None:
    raise OddInit(1, 2)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("this stays here")


class Unreadable:
    """Can be pickled, not unpickled."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise RuntimeError("this cannot be read")


def make(kind: type) -> Any:
    return kind()


def echo(value: Any) -> Any:
    return value


def set_up(value: int) -> None:
    sp.this_worker().state.value = value


def state_value() -> int:
    value: int = sp.this_worker().state.value
    return value


def broken_set_up() -> None:
    raise ValueError("no model here")


def write_end(path: str) -> None:
    """A finalizer, for `functools.partial`."""
    with Path(path).open("a") as opened:
        opened.write("end\n")


def shared_sum() -> float:
    return float(sp.this_worker().shared["table"].sum())


def write_shared() -> None:
    sp.this_worker().shared["table"][0] = 1.0


def eat(megabytes: int, mark: str = "") -> None:
    """Uses memory, then waits to be killed for it."""
    data = bytearray(megabytes << 20)
    for page in range(0, len(data), 4096):
        data[page] = 1
    hang(mark)


def keep(megabytes: int) -> None:
    """An initializer whose worker is so much larger."""
    sp.this_worker().state.kept = b"x" * (megabytes << 20)


def forks() -> int:
    """A task that forks a child, which comes back into the worker's loop."""
    return os.fork()


def nested(x: int) -> list[int]:
    with sp.Pool(2) as pool:
        return list(pool.map(double, range(x)))


def nested_hang(mark: str) -> None:
    with sp.Pool(1) as pool:
        pool.submit(hang, mark).result()


def exit_with(code: int) -> None:
    sys.exit(code)


def threads() -> str:
    return os.environ["OMP_NUM_THREADS"]


def cpus() -> set[int]:
    return set(os.sched_getaffinity(0))


def modules() -> list[str]:
    return list(sys.modules)

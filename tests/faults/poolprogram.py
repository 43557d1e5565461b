"""Programs that use a pool, for tests that kill or interrupt them: `python poolprogram.py NAME ARGUMENTS`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import spworkers as sp
from spworkers.testing import eventually


def hang(mark: str) -> None:
    import os
    import time

    Path(mark).write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def late(text: str) -> None:
    import os
    import time

    time.sleep(0.3)
    os.write(1, f"{text}\n".encode())  # whole, beside another worker's


def working(folder: str) -> None:
    """Two workers that never finish."""
    with sp.Pool(2) as pool:
        futures = [pool.submit(hang, f"{folder}/{n}") for n in range(2)]
        for future in futures:
            future.result()


def closing(folder: str) -> None:
    """Waits at the end of the block."""
    with sp.Pool(2) as pool:
        for n in range(2):
            pool.submit(hang, f"{folder}/{n}")


def mapping(folder: str) -> None:
    """The same, by a map, from `__main__`, without a guard, and with a queue behind."""
    with sp.Pool(2) as pool:
        for _ in pool.map(hang, [f"{folder}/{n}" for n in range(50)], chunksize=1):
            pass


def forked(folder: str) -> None:
    """Workers that are this process' own children."""
    with sp.Pool(2, start_method="fork") as pool:
        list(pool.map(hang, [f"{folder}/{n}" for n in range(2)], chunksize=1))


def spawned(folder: str) -> None:
    """Workers in fresh interpreters."""
    with sp.Pool(2, start_method="spawn") as pool:
        list(pool.map(hang, [f"{folder}/{n}" for n in range(2)], chunksize=1))


def leaving(_: str) -> None:
    """Ends without a shutdown: what was submitted is done first."""
    pool = sp.Pool(2)
    for text in ("one", "two"):
        pool.submit(late, text)


def nested(folder: str) -> None:
    """A pool in a task of a pool."""

    def inner(mark: str) -> None:
        with sp.Pool(1) as own:
            own.submit(hang, mark).result()

    with sp.Pool(1) as pool:
        pool.submit(inner, f"{folder}/0").result()


def full(_: str) -> None:
    """Works where /dev/shm has no room."""
    try:
        Path("/dev/shm/fill").write_bytes(bytes(2 << 20))
    except OSError:
        print("full")
    with sp.Pool(2) as pool:
        data = bytes(8 << 20)
        print([len(back) for back in pool.map(bytes, [data] * 4)] == [8 << 20] * 4)


def changing(method: str) -> None:
    """Has a fresh worker for each task; says how many descriptors were open after a few, and after many."""
    import gc

    def same_as(most: int) -> bool:
        gc.collect()
        return len(os.listdir("/proc/self/fd")) <= most

    for count in (3, 20):
        with sp.Pool(1, max_tasks=1, start_method=method) as pool:
            list(pool.map(abs, range(count), chunksize=1))
            pool.submit(time.sleep, 0.05).result()  # who waits for long once has a pipe for signals, for good
        del pool
        if count == 3:
            gc.collect()
            few = len(os.listdir("/proc/self/fd"))
    eventually(lambda: same_as(few), 20, what=f"no more than {few} descriptors")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])

"""A job that is killed: writes each number to a file, a line each, and their sum when it is through."""

from __future__ import annotations

import os
import sys
import time

import spworkers as sp


def work(number: int) -> int:
    time.sleep(0.001)
    return number


def main(stored: str, checkpoint: str) -> None:
    file = os.open(stored, os.O_WRONLY | os.O_APPEND)

    def store(so_far: int, number: int) -> int:
        os.write(file, f"{number}\n".encode())
        return so_far + number

    job = sp.Pipeline("job", window=20).read(range(600)).map(work, workers=2).map(abs, ordered=False).fold(store, 0)
    report = job.run(checkpoint=checkpoint)
    with open(f"{checkpoint}.sum", "w") as total:
        total.write(str(report.result))


main(*sys.argv[1:])

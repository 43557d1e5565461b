"""Handlers: functions that worker processes answer calls of, and all that may become of a call.

python examples/handlers.py                        # serves, calls, kills a worker, and ends

spworkers serve examples.handlers:app --listen tcp://127.0.0.1:5555
spworkers call tcp://127.0.0.1:5555 primes 100
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import spworkers as sp

app = sp.App("handlers")


@dataclass
class Order:
    item: str
    count: int


@app.on_start
def load(state) -> None:
    """Once in every worker, before its first call."""
    state.prices = {"tea": 320, "cake": 450}


@app.handler
def primes(below: int) -> list[int]:
    """The prime numbers below a number."""
    return [n for n in range(2, below) if all(n % d for d in range(2, int(n**0.5) + 1))]


@app.handler
def total(orders: list[Order], *, state) -> int:
    """What orders cost; clients of other languages send maps with the fields."""
    return sum(state.prices[order.item] * order.count for order in orders)


@app.handler
def tomorrow(day: datetime) -> datetime:
    """Dates, UUIDs, decimals, sets and arrays of numpy travel as they are."""
    return day + timedelta(days=1)


@app.handler(timeout=0.3, retries=0)
def nap(seconds: float) -> str:
    """Its worker is killed when it takes longer than its time limit."""
    time.sleep(seconds)
    return "slept well"


@app.handler
def whoami() -> int:
    return os.getpid()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with app.serve("tcp://127.0.0.1:0", workers=2, block=False) as server, sp.Client(server.address) as client:
        print("primes:", client.primes(30))
        print("total:", client.total([Order("tea", 2), Order("cake", 1)]))
        print("tomorrow:", client.tomorrow(datetime(2026, 12, 31, tzinfo=timezone.utc)))

        futures = [client.submit("primes", below) for below in (1000, 2000, 3000)]  # side by side
        print("many:", [len(future.result()) for future in futures])

        for call in (
            lambda: client.primes("many"),  # never reaches the function
            lambda: client.prime(30),
            lambda: client.total([Order("coffee", 1)]),
            lambda: client.nap(60),
        ):
            try:
                call()
            except sp.SPError as error:
                print(f"{type(error).__name__}: {error}")

        victim = client.whoami()
        os.kill(victim, signal.SIGKILL)
        print("after a death:", client.primes(10), "by another worker:", client.whoami() != victim)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(1)

"""One side of one measurement, in a process of its own: `python -m benchmarks.child PEER CASE serve|client [ADDRESS]`.

It talks to the runner in lines of JSON: the server says {"address"}; the client says {"ready"} when it is warm,
waits for a line with its limits, and says {"count", "seconds", ...}. Both end when their standard input does.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from typing import Any, TextIO

from benchmarks.contract import CASES, Step
from benchmarks.peers import PEERS

WARM_UP = 0.5  # seconds


def say(out: TextIO, **fields: Any) -> None:
    out.write(json.dumps(fields) + "\n")
    out.flush()


def end_with_stdin() -> None:
    """The runner is gone, or has no more use for this process: leave, whatever is in flight or blocked."""
    sys.stdin.read()
    os._exit(0)


def percentile(ordered: list[int], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure_rate(step: Step, count: int, seconds: float) -> dict[str, Any]:
    done = 0
    begin = time.perf_counter()
    end = begin
    while done < count and end - begin < seconds:
        done += step()
        end = time.perf_counter()
    return {"count": done, "seconds": end - begin}


def measure_latency(step: Step, count: int, seconds: float) -> dict[str, Any]:
    times: list[int] = []
    clock = time.perf_counter_ns
    begin = before = clock()
    limit = begin + int(seconds * 1e9)
    while len(times) < count and before < limit:
        step()
        now = clock()
        times.append(now - before)
        before = now
    ordered = sorted(times)
    return {
        "count": len(times),
        "seconds": (before - begin) / 1e9,
        "p50": percentile(ordered, 0.50) / 1000,
        "p99": percentile(ordered, 0.99) / 1000,
    }


def run_client(peer: str, case: str, address: str, out: TextIO) -> None:
    measure = measure_latency if CASES[case].latency else measure_rate
    with PEERS[peer].forms()[case].client(address) as step:
        measure(step, sys.maxsize, WARM_UP)
        say(out, ready=True, gc=gc.isenabled())
        limits = json.loads(sys.stdin.readline() or "null")
        if limits:
            say(out, **measure(step, limits["count"], limits["seconds"]))
        end_with_stdin()


def main() -> None:
    # What a peer prints by itself must not get between the lines: they have the descriptor for themselves.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peer, case, side, *address = sys.argv[1:]
    if side == "serve":
        threading.Thread(target=end_with_stdin, daemon=True).start()
        PEERS[peer].forms()[case].serve(lambda where: say(out, address=where))
    else:
        run_client(peer, case, address[0], out)


if __name__ == "__main__":
    main()

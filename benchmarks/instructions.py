"""Instructions per message, of the ring alone and of a REQ socket, by callgrind: a busy machine changes nothing.

A program sends and takes N messages, and then 2 N, under `valgrind --tool=callgrind`; the difference of the two counts
over N leaves out the start of Python and everything else that does not repeat.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REQUESTS = 1500  # of the shorter run that counts what a socket costs
TIMEOUT = 600.0  # seconds; callgrind is some fifty times slower than the machine

PROGRAMS = {
    "loop": """
    for _ in range(count):
        pass
""",
    "send": """
    for _ in range(count // 64):
        for _ in range(64):
            publish(body)
        for _ in range(64):
            record = follow()
            record.claim()
            record.release()
""",
    "receive": """
    for _ in range(count // 64):
        for _ in range(64):
            offer(b"", body, 0, 0, 0)
        for _ in range(64):
            take().take_body()
""",
    "roundtrip": """
    for _ in range(count):
        publish(body)
        record = follow()
        record.claim()
        offer(b"", record.payload_bytes(), 0, 0, 0)
        record.release()
        take().take_body()
""",
}
"""What is counted: the body of a function. The loop alone is taken off the others."""

ABOUT = {
    "send": "publish by the user, next, claim and release by the I/O process, in batches of 64",
    "receive": "offer by the I/O process, take as bytes by the user, in batches of 64",
    "roundtrip": "one message to the I/O process and back, neither side asleep",
}

SERVER = """
import spworkers as sp
with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
    print(rep.listeners[0].address, flush=True)
    for body in rep:
        rep.send(body)
"""

CLIENT = """
import sys
import spworkers as sp

def work(count, body):
    with sp.Req(dial=sys.argv[2]) as req:
        send, recv = req.send, req.recv
        for _ in range(count):
            send(body)
            recv()

work(int(sys.argv[1]), bytes(16))
"""

CALL_SERVER = """
import sys
import spworkers as sp
app = sp.App("calls")

@app.handler
def add(a: int, b: int) -> int:
    return a + b

with app.serve("tcp://127.0.0.1:0", workers=2, block=False) as server:
    print(server.address, *(worker.pid for worker in server.workers), flush=True)
    sys.stdin.readline()
"""

CALL_CLIENT = """
import asyncio, sys
import psutil
import spworkers as sp

async def work(count):
    left = [count]

    async def ask():
        while left[0] > 0:
            left[0] -= 1
            await client.acall("add", 2, 3)

    await asyncio.gather(*(ask() for _ in range(16)))

with sp.Client(sys.argv[2]) as client:
    asyncio.run(work(int(sys.argv[1])))
    io = max(psutil.Process().children(recursive=True), key=lambda process: process.pid)
io.wait(60)  # what it took is written at its end
"""

SETUP = """
import sys
from spworkers.ring import Inlet, Outlet, Receiver, Region, Sender, make_bell
count, size = int(sys.argv[1]), int(sys.argv[2])
body = bytes(size)
region = Region.create()
segment = region.segment(0)
bells = [make_bell() for _ in range(3)]
sender, outlet = Sender(segment, bells[0], bells[2]), Outlet(segment, bells[0])
inlet, receiver = Inlet(segment, bells[1]), Receiver(segment, bells[1], bells[2])
sender.window = inlet.window = 128

def work(publish, follow, offer, take):
"""

CALL = """
work(sender.publish, outlet.next, inlet.offer, receiver.take)
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=6400, help="messages of the shorter run (default: %(default)s)")
    parser.add_argument(
        "--size", type=int, action="append", help="bytes of a body (repeatable; default: 16, 1024, 65536)"
    )
    parser.add_argument(
        "--calls", action="store_true", help="what a call of a Client costs, process by process, and no more"
    )


def _surroundings() -> dict[str, Any]:
    """Of a program: this one's imports, from another folder than the sources."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}
    return {"env": environment, "cwd": tempfile.gettempdir()}


def count_instructions(program: str, count: int, size: int) -> int:
    """All instructions of one run of a program with `count` messages."""
    with tempfile.TemporaryDirectory() as directory:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/out"]
        command += [sys.executable, "-c", SETUP + program + CALL, str(count), str(size)]
        done = subprocess.run(
            command,
            **_surroundings(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not collected:
        raise RuntimeError(f"callgrind ended with {done.returncode}:\n{done.stderr}")
    return int(collected[1])


def per_message(program: str, count: int, size: int) -> float:
    return (count_instructions(program, 2 * count, size) - count_instructions(program, count, size)) / count


def count_processes(count: int, address: str) -> tuple[int, int]:
    """All instructions of the user's process and of its I/O process in a run of CLIENT with `count` requests."""
    with tempfile.TemporaryDirectory() as directory:
        command = [*_callgrind(directory), sys.executable, "-c", CLIENT, str(count), address]
        subprocess.run(command, **_surroundings(), capture_output=True, timeout=TIMEOUT, check=True)
        return _ends_of(_totals(directory))


def _callgrind(directory: str) -> list[str]:
    """The beginning of a command whose processes write what they took into a file each, by their number."""
    return ["valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={directory}/%p"]


def _totals(directory: str) -> dict[int, int]:
    found = {}
    for path in Path(directory).iterdir():
        total = re.search(r"^(?:summary|totals): (\d+)", path.read_text(errors="replace"), re.MULTILINE)
        if total:  # the supervisor may have been ended before it could write its own
            found[int(path.name)] = int(total[1])
    return found


def _ends_of(found: dict[int, int]) -> tuple[int, int]:
    """Of a user's process and its I/O process: numbered in the order of their start, the supervisor between."""
    return found[min(found)], found[max(found)]


def per_request(count: int) -> tuple[float, float]:
    """Instructions of both processes for one request with its reply, over tcp, 16 bytes."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, **_surroundings()
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            once, twice = count_processes(count, address), count_processes(2 * count, address)
        finally:
            server.terminate()
    return (twice[0] - once[0]) / count, (twice[1] - once[1]) / count


def count_calls(count: int) -> tuple[int, int, int, int, int]:
    """All instructions of a run with so many calls: the client's process, its I/O process, the server's process, its
    I/O process, its workers."""
    with tempfile.TemporaryDirectory() as at_server, tempfile.TemporaryDirectory() as at_client:
        command = [*_callgrind(at_server), sys.executable, "-c", CALL_SERVER]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            **_surroundings(),
        ) as server:
            assert server.stdout is not None
            address, *workers = server.stdout.readline().split()
            client = [*_callgrind(at_client), sys.executable, "-c", CALL_CLIENT, str(count), address]
            subprocess.run(client, **_surroundings(), capture_output=True, timeout=TIMEOUT, check=True)
            server.communicate("\n", timeout=TIMEOUT)
        user, io = _ends_of(_totals(at_client))
        found = _totals(at_server)
        working = sum(found.pop(int(worker)) for worker in workers)
        return user, io, *_ends_of(found), working


def run_calls(count: int) -> None:
    """Print what one `acall` costs, 16 in flight, two workers."""
    once, twice = count_calls(count), count_calls(2 * count)
    names = (
        "the client's process",
        "its I/O process",
        "the server's process",
        "its I/O process",
        "its two workers together",
    )
    print(f"A call by `acall`, 16 in flight ({2 * count} less {count}):")
    for name, less, more in zip(names, once, twice, strict=True):
        print(f"{(more - less) / count:10,.0f} in {name}", flush=True)


def run(options: argparse.Namespace) -> int:
    """Print the table. Returns 2 when valgrind is not installed."""
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: there is nothing to count instructions with", file=sys.stderr)
        return 2
    if options.messages < 64 or options.messages % 64:
        print(f"--messages must be a multiple of 64, not {options.messages}", file=sys.stderr)
        return 2
    if options.calls:
        run_calls(REQUESTS)
        return 0
    sizes = options.size or [16, 1024, 65536]
    loop = per_message(PROGRAMS["loop"], options.messages, 16)
    print("| instructions per message | " + " | ".join(f"{size} B" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name, about in ABOUT.items():
        figures = [per_message(PROGRAMS[name], options.messages, size) - loop for size in sizes]
        print(f"| {name}: {about} | " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |", flush=True)
    user, io = per_request(REQUESTS)
    print(
        f"\nA request of a Req socket and its reply, 16 B over tcp ({2 * REQUESTS} less {REQUESTS}, with their loop):"
    )
    print(f"{user:,.0f} in the user's process, {io:,.0f} in its I/O process.")
    return 0

"""Digests of files, computed in worker processes.

The whole job: a server, several clients at once that send it the path of every file of Python's own library, and a
check of each digest against what hashlib says here:

    python examples/digest.py

The server alone, and who may ask it:

    spworkers serve examples.digest:app --listen tcp://127.0.0.1:5555
    spworkers call tcp://127.0.0.1:5555 digest /etc/hosts -k algorithm=md5
    nngcat --req --dial tcp://127.0.0.1:5555 --data /etc/hosts --ascii
    nanocat --req --connect tcp://127.0.0.1:5555 --data /etc/hosts --ascii
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import sys
import sysconfig
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

import spworkers as sp

app = sp.App("digest")


@app.handler
def digest(path: str, algorithm: Literal["sha256", "sha1", "md5", "blake2b"] = "sha256") -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.new(algorithm, Path(path).read_bytes()).hexdigest()


@app.raw
def digest_raw(path: bytes) -> bytes:
    """The same for clients that know nothing of handlers, such as nngcat."""
    return digest(os.fsdecode(path)).encode()


def files_below(folder: Path, limit: int) -> list[str]:
    """Paths of the files that we may read, at most `limit`; whose names are no UTF-8 are left out."""
    found = (str(path) for path in sorted(folder.rglob("*")) if path.is_file() and os.access(path, os.R_OK))
    return [path for path in found if path.isprintable()][:limit]


def ask(address: str, clients: int, paths: list[str], progress: Progress) -> dict[str, str]:
    """The digests of all files, from several clients, each with many calls in flight."""
    bar = progress.add_task("digests", total=len(paths))
    with contextlib.ExitStack() as stack:
        all_clients = [stack.enter_context(sp.Client(address, timeout=60)) for _ in range(clients)]
        futures = {}
        for path, client in zip(paths, itertools.cycle(all_clients), strict=False):
            futures[path] = client.submit("digest", path)  # waits while too many are in flight
            futures[path].add_done_callback(lambda future: progress.advance(bar))
        return {path: known(path, future) for path, future in futures.items()}


def known(path: str, future: Future[str]) -> str:
    """The digest; a file that cannot be read, in /proc perhaps, has none."""
    try:
        return future.result()
    except sp.RemoteError as error:
        sys.exit(f"digest.py: {path}: {error}")


def run(paths: list[str], workers: int | None, clients: int, console: Console) -> dict[str, str]:
    """Serve, ask, and say how fast that was and who did it."""
    megabytes = sum(os.path.getsize(path) for path in paths) / 1e6
    with app.serve("tcp://127.0.0.1:0", workers=workers, block=False) as server:
        begin = time.perf_counter()
        with Progress(console=console, disable=not console.is_terminal) as progress:
            digests = ask(server.address, clients, paths, progress)
        seconds = time.perf_counter() - begin
        speed = f"{len(paths) / seconds:,.0f} files/s, {megabytes / seconds:,.0f} MB/s"
        console.print(f"{len(digests):,} digests in {seconds:.2f} s: {speed}")
        for worker in server.workers:
            part = worker.answered / max(server.answered, 1)
            console.print(f"  {worker.name} (pid {worker.pid}): {worker.answered:,}, {part:.1%}")
    return digests


def count(text: str) -> int:
    """An argument that is a whole number, from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description="Digests of files, computed in worker processes.")
    parser.add_argument("--workers", type=int, help="worker processes (default: one per processor)")
    parser.add_argument("--clients", type=count, default=4, help="clients at once, 100 at most (default: 4)")
    parser.add_argument(
        "--folder", type=Path, default=Path(sysconfig.get_path("stdlib")), help="default: Python's library"
    )
    parser.add_argument("--limit", type=count, default=sys.maxsize, help="so many files at most")
    options = parser.parse_args()
    if options.clients > 100:
        parser.error(f"{options.clients} clients are more than 100: each has a process of its own")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    paths = files_below(options.folder, options.limit)
    if not paths:
        parser.error(f"there is no file below {options.folder}")
    console.print(f"{len(paths):,} files below {options.folder}, {options.clients} clients")
    digests = run(paths, options.workers, options.clients, console)
    wrong = [path for path in paths if digests.get(path) != hashlib.sha256(Path(path).read_bytes()).hexdigest()]
    for path in wrong:
        console.print(f"wrong digest: {path}")
    console.print(f"{len(wrong):,} digests are wrong" if wrong else "every digest is what hashlib says")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (sp.SPError, OSError) as error:  # OSError: what we print can't be written, say
        sys.exit(f"digest.py: {error}")
    except KeyboardInterrupt:
        sys.exit(1)

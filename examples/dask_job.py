"""A pipeline on a Dask cluster: the names in Python's own library, counted by the cluster's workers.

A cluster on this machine, of two processes, is started for it:

    python examples/dask_job.py

On a cluster that runs already; the job is the same, and its functions go to the workers by value. With --checkpoint it
can be killed and run again, and goes on where it was:

    dask scheduler &
    dask worker tcp://127.0.0.1:8786 &
    python examples/dask_job.py --scheduler tcp://127.0.0.1:8786 --files 0 --checkpoint names.ckpt

It needs Dask (pip install 'spworkers[dask]'), and spworkers on the workers, too.
"""

from __future__ import annotations

import argparse
import collections
import sys
import sysconfig
import tokenize
from pathlib import Path
from typing import Any

import spworkers as sp

try:
    from distributed import Client, LocalCluster
except ModuleNotFoundError:
    print("this example needs Dask: pip install 'spworkers[dask]'", file=sys.stderr)
    sys.exit(2)

Counts = collections.Counter[str]


def count(paths: list[str]) -> Counts:
    """How often each name occurs in some source files; what cannot be read counts as empty.

    Several at a time, since Dask takes milliseconds for each task.
    """
    total: Counts = collections.Counter()
    for path in paths:
        try:
            with tokenize.open(path) as file:
                tokens = tokenize.generate_tokens(file.readline)
                total.update(token.string for token in tokens if token.type == tokenize.NAME)
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue
    return total


def add(so_far: Counts, more: Counts) -> Counts:
    """Two counts as one."""
    so_far.update(more)
    return so_far


def sources(limit: int | None) -> list[str]:
    """Python's own sources; the workers have to find them at the same paths."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = (path for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts)
    return [str(path) for path in found][:limit]


def run(client: Client, paths: list[str], checkpoint: str | None) -> Any:
    """The job, on the cluster of this client."""
    job = (
        sp.Pipeline("names")
        .read(paths)
        .batch(10)
        # Dask gives a task whose worker died to another one; what is lost beyond that is tried again here.
        .map(count, retries=2, ordered=False)
        .fold(add, collections.Counter())
    )
    with sp.executors.dask(client) as executor:
        return job.run(executor=executor, checkpoint=checkpoint)


def main() -> None:
    """Run it, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheduler", help="address of a cluster's scheduler (default: a cluster is started here)")
    parser.add_argument("--files", type=int, default=300, help="read only the first so many (300); 0: all")
    parser.add_argument("--checkpoint", help="file from which a job that was killed goes on")
    options = parser.parse_args()
    paths = sources(options.files or None)
    if options.scheduler:
        with Client(options.scheduler) as client:
            report = run(client, paths, options.checkpoint)
    else:
        with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
            report = run(client, paths, options.checkpoint)
    print(report)
    total = report.result
    print(f"{len(paths)} files, {total.total()} names, {len(total)} different ones")
    print("the most frequent:", ", ".join(f"{name} {number}" for name, number in total.most_common(5)))


if __name__ == "__main__":  # needed here: Dask starts its processes by importing this file again
    main()

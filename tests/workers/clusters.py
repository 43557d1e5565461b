"""What is done on a real cluster, in a process of its own: `python clusters.py dask|ray FOLDER` prints a JSON object.

A process of its own, since these libraries leave threads, log handlers and warnings in the one that uses them. Of each
step it says what came of it: the value, or an error's type and text. The last steps destroy the cluster.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import runpy
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import spworkers as sp
from spworkers.testing.waiting import eventually

sys.path.insert(0, str(Path(__file__).parent))
import pooltasks as tasks

ROOT = Path(__file__).parents[2]
LARGE = 9 << 20
WAIT = 60.0

app = sp.App("clusters")


@app.handler
def add(a: int, b: int) -> int:
    return a + b


@app.handler
def where() -> int:
    return os.getpid()


def wait_for(path: str) -> int:
    while not Path(path).exists():
        time.sleep(0.01)
    return 7


def begin_late(path: str, gate: str) -> int:
    Path(path).touch()
    return wait_for(gate)


def common(executor: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    """What holds on every engine."""
    work = Path(tasks.__file__).parent  # what a cluster's workers can import is whoever's who runs it

    def pipeline() -> Any:
        job = (
            sp.Pipeline("numbers")
            .read(range(20))
            .map(tasks.fail_if_odd, workers=2, retries=1, backoff=0, retry_on=ValueError)
            .flat_map(lambda x: [x, -x])
            .batch(5)
            .map(sum)
            .collect()
        )
        report = job.run(executor=executor, checkpoint=folder / "job.ckpt")
        again = job.run(executor=executor, checkpoint=folder / "job.ckpt")
        return report.result, len(report.failures), report.failures[0].attempts, again.result == report.result

    def limited() -> Any:
        return sp.Pipeline().read(range(3)).map(abs, timeout=1).collect().run(executor=executor)

    def handlers() -> Any:
        """Calls whose handlers run there; the socket is here."""
        with (
            app.serve("tcp://127.0.0.1:0", executor=executor, block=False) as server,
            sp.Client(server.address, timeout=WAIT) as client,
        ):
            return [client.add(2, 3), client.where() != os.getpid()]

    return {
        "pow": lambda: executor.submit(pow, 2, 10).result(WAIT),
        "repr": lambda: repr(executor),
        "workers": lambda: executor._max_workers,
        "elsewhere": lambda: executor.submit(os.getpid).result(WAIT) != os.getpid(),
        "keywords": lambda: executor.submit(dict, retries=1, key=2, workers=3, pure=4).result(WAIT),
        "lambda": lambda: executor.submit(lambda x: x + len(work.name), 0).result(WAIT),
        "twice": lambda: len({executor.submit(time.monotonic_ns).result(WAIT) for _ in range(3)}),
        "unpicklable result": lambda: executor.submit(tasks.make, tasks.Unpicklable).result(WAIT),
        "odd exception": lambda: executor.submit(tasks.raise_odd).result(WAIT),
        "exit": lambda: executor.submit(sys.exit, 3).result(WAIT),
        "large": lambda: [len(executor.submit(tasks.double, bytes(LARGE)).result(WAIT)) for _ in range(2)],
        "map": lambda: list(itertools.islice(executor.map(pow, itertools.count(), itertools.repeat(2)), 10)),
        "callback": lambda: callback(executor),
        "pipeline": pipeline,
        "handlers": handlers,
        "pipeline's timeout": limited,
    }


def callback(executor: Any) -> int:
    """A callback that waits for a task."""
    seen: list[int] = []
    executor.submit(pow, 2, 3).add_done_callback(
        lambda done: seen.append(executor.submit(pow, done.result(), 2).result(WAIT))
    )
    eventually(lambda: seen, WAIT)
    return seen[0]


def on_dask(folder: Path) -> dict[str, Any]:
    """The steps on a Dask cluster of two processes."""
    import dask
    from distributed import Client, LocalCluster

    # One death is enough to see what becomes of it; and Dask is imported once, by the processes' parent.
    dask.config.set(
        {"distributed.scheduler.allowed-failures": 0, "distributed.worker.multiprocessing-method": "forkserver"}
    )
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    client = Client(cluster)
    executor = sp.executors.dask(client, priority=1)

    def cancel() -> Any:
        """Of each of four tasks, of which two run: whether it runs, and what `cancel` says; and what came."""
        gate, marks = str(folder / "gate"), [folder / f"mark{n}" for n in range(4)]
        futures = [executor.submit(begin_late, str(mark), gate) for mark in marks]
        eventually(lambda: sum(mark.exists() for mark in marks) == 2, WAIT)
        running = [future.running() for future in futures]
        said = [future.cancel() for future in futures]
        # The news of a cancellation has come to the workers.
        eventually(lambda: set(client.run(_held).values()) == {1}, WAIT)
        Path(gate).touch()
        wait(futures, WAIT)
        results = [future.result() for future in futures if not future.cancelled()]
        return sorted(zip(running, said, strict=True)), results, sum(mark.exists() for mark in marks)

    def cancel_at_once() -> list[str]:
        """Errors that Dask logs when tasks are cancelled of which its scheduler may not have heard."""
        errors: list[str] = []
        log, handler = logging.getLogger("distributed.core"), logging.Handler(logging.ERROR)
        handler.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
        level = log.level
        log.setLevel(logging.ERROR)
        log.addHandler(handler)
        gate = str(folder / "opened at once")  # else one might end, and be forgotten, between two questions about it
        futures = []
        for _ in range(20):
            futures.append(executor.submit(wait_for, gate))
            futures[-1].cancel()
        Path(gate).touch()
        wait(futures, WAIT)
        log.removeHandler(handler)
        log.setLevel(level)
        return errors

    def held() -> bool:
        """Whether the scheduler forgets a task though its future is held here."""
        future = executor.submit(pow, 2, 3)
        eventually(lambda: future.done() and not client.run_on_scheduler(_tasks), WAIT)
        return True

    def example() -> None:
        path = str(ROOT / "examples" / "dask_job.py")
        sys.argv[:] = [path, "--scheduler", client.scheduler.address, "--files", "20"]
        with redirect_stdout(sys.stderr):
            runpy.run_path(path, run_name="__main__")

    def forsaken(end: Callable[[Any], Any]) -> Any:
        """A task to which something happens behind the executor's back."""
        future = executor.submit(wait_for, str(folder / "end"))
        end(future)
        return future.result(WAIT)

    def sent_again() -> Any:
        """Large arguments whose worker is gone, as far as Dask says: the result's size, and how often it was asked."""
        asked = itertools.count()
        gather = client.gather

        async def forgetful(*args: Any, **kwargs: Any) -> Any:
            if next(asked) == 0:
                raise CancelledError("lost dependencies")
            return await gather(*args, **kwargs)

        client.gather = forgetful
        try:
            return len(executor.submit(tasks.echo, bytes(LARGE)).result(WAIT)), next(asked)
        finally:
            client.gather = gather

    async def asynchronous() -> Any:
        async with Client(client.scheduler.address, asynchronous=True) as other:
            return sp.executors.dask(other)

    found = done(
        {
            **common(executor, folder),
            "cancel": cancel,
            "cancel at once": cancel_at_once,
            "held": held,
            "example": example,
            "no client": lambda: sp.executors.dask("tcp://127.0.0.1:1"),
            "asynchronous": lambda: asyncio.run(asynchronous()),
            "sent again": sent_again,
            "killed": lambda: executor.submit(os._exit, 3).result(WAIT),
            "after": lambda: executor.submit(pow, 2, 3).result(WAIT),
            "lost": lambda: forsaken(lambda future: future.theirs.cancel()),
            "closed": lambda: forsaken(lambda future: client.close()),
            "submit to a closed client": lambda: executor.submit(pow, 2, 3),
            "made of a closed client": lambda: sp.executors.dask(client),
            "shutdown": lambda: (executor.shutdown(wait=False), len(executor._under_way)),
        }
    )
    (folder / "end").touch()
    cluster.close()
    return found


def on_ray(folder: Path) -> dict[str, Any]:
    """The steps on Ray, started for them."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    executor = sp.executors.ray()

    def cancel() -> Any:
        """Of each of four tasks, of which two run: what `cancel` says; and whether the processes are gone."""
        marks = [folder / f"mark{n}" for n in range(4)]
        futures = [executor.submit(tasks.hang, str(mark)) for mark in marks]
        eventually(lambda: sum(mark.exists() and mark.read_text() != "" for mark in marks) == 2, WAIT)
        said = [future.cancel() for future in futures]
        wait(futures, WAIT)
        pids = [int(mark.read_text()) for mark in marks if mark.exists()]
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), WAIT)
        return said, len(pids)

    found = done(
        {
            **common(executor, folder),
            "cancel": cancel,
            "wrong option": lambda: sp.executors.ray(num_cpus="two"),
            "killed": lambda: executor.submit(os._exit, 3).result(WAIT),
            "after": lambda: executor.submit(pow, 2, 3).result(WAIT),
        }
    )
    lost = executor.submit(wait_for, str(folder / "never"))
    ray.shutdown()
    found |= done(
        {
            "submit to what was shut down": lambda: executor.submit(pow, 2, 3),
            "shutdown": lambda: executor.shutdown(),
            "closed": lambda: lost.result(WAIT),
        }
    )
    return found


def _tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _held(dask_worker: Any) -> int:
    return len(dask_worker.state.tasks)


def done(steps: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """What came of each step."""
    found: dict[str, Any] = {}
    for name, step in steps.items():
        begun = time.monotonic()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                found[name] = step()
            except BaseException as error:
                found[name] = type(error).__name__, str(error)
        print(f"{name}: {time.monotonic() - begun:.2f} s", file=sys.stderr)
        found[f"{name}: warnings"] = [str(each.message) for each in warned if "spworkers" in str(each.message)]
    return found


if __name__ == "__main__":
    # The last line: Ray prints some of its own.
    print("\n" + json.dumps({"dask": on_dask, "ray": on_ray}[sys.argv[1]](Path(sys.argv[2]))))

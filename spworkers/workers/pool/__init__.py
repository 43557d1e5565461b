"""Pools: a `concurrent.futures.Executor` whose tasks go through shared memory, straight to the worker and back.

    your threads ──▶ dispatcher ──▶ lane 1 ──▶ worker ──▶ lane 0 ──▶ reader ──▶ futures
                     (parent)                 (process)              (whoever waits, or the collector's thread)

One region for the pool, a segment for each worker process; there is no process in between. Who has to do with it:

| module | its idea |
|---|---|
| `executor` | what users hold: `Pool`, and views of it with other options |
| `future` | a Future that is cancelled to the end, and whose waiting thread reads results itself |
| `mapping` | `map` and `map_unordered`: items in batches, bounded, results in order or as they come |
| `engine` | what results, deaths, timeouts and the end mean for jobs and workers |
| `reader` | who reads results: whoever waits, else the collector's thread, which has the timers too |
| `deaths` | what a worker's death means: the error of its task, whether any can be started |
| `dispatch` | which worker gets which job |
| `crew` | one worker as the parent knows it |
| `jobs` | a job, and what its caller asked for (timeout, retries) |
| `launch` | how a worker process comes into being: from the supervisor, by exec, or forked here |
| `keeper` | the thread that starts and ends processes, and measures them |
| `functions` | each function once to each worker |
| `values` `kinds` `unpacking` | what the records hold |
| `bench` `inside` | the worker's side: its loop, its start and its end |
| `ledger` | what each worker is at, in shared memory |

A process that has a supervisor tells it when this package is imported: both then import their parts at the same time.
"""

from __future__ import annotations

import sys

_client = sys.modules.get("spworkers.supervisor.client")
if _client is not None:
    _client.expect("pool")

"""Engines beyond this machine behind `concurrent.futures.Executor`, and our pool behind joblib.

| module | its idea |
|---|---|
| `parcel` | a call on its way to a worker of somebody else's, and its outcome on the way back |
| `remote` | what the executors have in common: futures, `map`, the end |
| `ondask` `onray` | one engine each: how it begins a task, how it stops one, what its own errors mean |
| `onjoblib` | the other way round: a `Pool` for joblib |
| `asking` | options that an engine has, and those of a pool that it cannot honour |

Users come in by `spworkers.executors`; dask, ray and joblib are imported when they are asked for.
"""

"""What a worker's records hold: results, parts of a batch, failures."""

from __future__ import annotations

from typing import Any

from spworkers.ring import Record
from spworkers.workers.pool.kinds import PART, RAISED, RESULT
from spworkers.workers.pool.values import Values, pack_error, unreadable_result

__all__ = ["decode"]

Told = tuple[int, int, int, Any]
"""A record as the engine wants it: kind, pipe (nanoseconds of a task, or the first item of a part), serial, value."""


def decode(values: Values, batch: list[Any], decoded: list[Told]) -> None:
    """Unpack records, one after the other; who is interrupted (Ctrl-C) has as many in `decoded` as were taken.

    Args:
        values: how results are packed.
        batch: records as `drain` gives them.
        decoded: gets one for each; a result that cannot be read is a failure that says so.
    """
    for published, pipe, serial, body in batch:
        kind: int = published
        value: Any
        try:
            if kind == RESULT:
                value = values.unpack(body) if type(body) is bytes else record_of(values, body)
            elif kind == PART:
                value = part_of(values, body)
            else:
                value = whole_of(body)
        except Exception as error:
            kind = RAISED
            value = unreadable_result(error)
        decoded.append((kind, pipe, serial, value))


def record_of(values: Values, record: Record) -> Any:
    try:
        return values.unpack_record(record)
    finally:
        record.release()


def part_of(values: Values, body: Any) -> Any:
    """Results of a batch: `(values, errors, nanoseconds)`."""
    import pickle

    if type(body) is not bytes:
        record: Record = body
        if record.header:  # one large result
            return [record_of(values, record)], None, 0
        body = record.take_body()
    each, results, errors, nanoseconds = pickle.loads(body)
    if each:
        errors = dict(errors or {})
        unpacked: list[Any] = []
        for index, packed in enumerate(results):
            try:
                unpacked.append(values.unpack(packed) if packed is not None else None)
            except Exception as error:
                unpacked.append(None)
                errors[index] = pack_error(unreadable_result(error))
        results = unpacked
    return results, errors, nanoseconds


def whole_of(body: Any) -> bytes:
    if type(body) is bytes:
        return body
    record: Record = body
    return record.take_body()

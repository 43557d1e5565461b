"""The worker's loop: take a job off the lane, do it, put its result into the other lane.

    take (claimed) ─▶ ledger: since when, which ─▶ run ─▶ publish the result ─▶ release the record

The record stays claimed until its result is published, and the results are published before anything else is begun:
so whenever the worker dies, the parent can tell what was done, what was in hand and what was not begun.
"""

from __future__ import annotations

import itertools
import os
import pickle
import time
from typing import Any, Final

from spworkers._memory import give_back
from spworkers.lookaround import FOUND, LookAround
from spworkers.ring import Receiver, Record, Sender, Walk, gather, wait_readable
from spworkers.workers.pool.kinds import (
    BATCH,
    CALL,
    CALL_KEYWORDS,
    DEFINE,
    EACH,
    EAGER,
    FORGET,
    KIND,
    LOST,
    PART,
    RAISED,
    RESULT,
    STAR,
    STOP,
    TIMED,
)
from spworkers.workers.pool.ledger import BUSY, DONE, FAILED, IDLE, ITEM, SERIAL, SINCE, STAGE
from spworkers.workers.pool.values import PLAIN, Large, Values, pack_error, unreadable, unsendable_result

__all__ = ["Bench"]

FOREVER: Final = float("inf")
SPIN: Final = 50e-6
"""Seconds for which a worker that has nothing to do looks around before it sleeps: about what a wake-up costs."""
TIDY: Final = 0.1
"""Seconds after which a worker that has nothing to do gives the system back what its allocator keeps for the next task:
some MiB, after large ones."""
SOON: Final = 300_000
"""Nanoseconds after which the results of an eager batch are published."""
LATER: Final = 5_000_000
"""The same, of another batch."""
_LONGEST: Final = 0xFFFFFFFF
_LOOK: Final = 3  # of what `Receiver.wait` says: there may be something


class _Unknown:
    """Stands for a function that could not be read."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Raising:
    """In place of a function that could not be read."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, *_: Any) -> Any:
        raise self._error


class _Reading:
    """A function whose items come packed one by one."""

    def __init__(self, function: Any, values: Values, star: bool) -> None:
        self._function = function
        self._values = values
        self._star = star

    def __call__(self, packed: bytes) -> Any:
        try:
            item = self._values.unpack(packed)
        except Exception as error:
            raise unreadable("the task's argument", error) from error
        return self._function(*item) if self._star else self._function(item)


class Bench:
    """Where jobs are done.

    Args:
        receiver: where they come from.
        sender: where results go.
        values: how arguments and results are packed.
        row: our words in the ledger.
    """

    def __init__(self, receiver: Receiver, sender: Sender, values: Values, row: memoryview) -> None:
        self.receiver = receiver
        self.sender = sender
        self.values = values
        self.row = row
        self.forked = False
        """This is a child that a task has forked."""
        self._functions: dict[int, Any] = {}
        self._around = LookAround()
        self._untidy = False  # it has worked since its memory was tidied

    def work(self) -> None:
        """Do jobs until it is time to stop."""
        take = self.receiver.take
        row = self.row
        row[STAGE] = IDLE
        while True:
            record = take()
            if record is None:
                self._rest()
                continue
            self._untidy = True
            kind = record.kind
            which = kind & KIND
            if which in (CALL, CALL_KEYWORDS):
                self._call(record, which)
            elif which == BATCH:
                self._batch(record, kind)
            elif which == DEFINE:
                self._define(record)
            elif which == FORGET:
                self._functions.pop(record.pipe, None)
                record.release()
            elif which == STOP:
                record.release()
                return

    def _rest(self) -> None:
        """Nothing to do: look around for a moment, then sleep until the bell rings."""
        self.row[STAGE] = IDLE
        looking = SPIN if self._around.pays() else 0.0
        woken = self.receiver.wait(TIDY if self._untidy else FOREVER, -1, True, looking)
        if looking:
            self._around.tell(woken & FOUND != 0)
        if self._untidy and not woken & _LOOK:
            self._untidy = False
            give_back()

    def _define(self, record: Record) -> None:
        number = record.pipe
        try:
            self._functions[number] = pickle.loads(record.body())
        except Exception as error:
            self._functions[number] = _Unknown(error)
        record.release()

    # --- One task

    def _call(self, record: Record, which: int) -> None:
        row = self.row
        serial = record.serial
        begun = time.monotonic_ns()
        row[SINCE] = begun
        row[SERIAL] = serial
        row[STAGE] = BUSY
        function = self._functions[record.pipe]
        try:
            value = self._run(record, which, function)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too, as executors have it
            self._mind_forks()
            spent = min((time.monotonic_ns() - begun) // 100, _LONGEST)
            self._fail(serial, error, spent, 2)
            row[FAILED] += 1
        else:
            if self.forked:
                self._mind_forks()
            spent = min((time.monotonic_ns() - begun) // 100, _LONGEST)
            self._succeed(serial, value, spent)
        row[DONE] += 1
        record.release()

    def _run(self, record: Record, which: int, function: Any) -> Any:
        try:
            if record.size <= 4096 and not record.header:
                args = self.values.unpack(record.body())
            else:
                args = self.values.unpack_record(record)
        except Exception as error:
            raise unreadable("the task's arguments", error) from error
        if type(function) is _Unknown:
            raise unreadable("the task's function", function.error) from function.error
        if which == CALL:
            return function(*args)
        return function(*args[0], **args[1])

    def _succeed(self, serial: int, value: Any, spent: int) -> None:
        values = self.values
        packed: Any
        try:
            packed = values.pack_small(value) if type(value) in PLAIN else values.pack(value)
        except Exception as error:
            self._fail(serial, unsendable_result(value, error), spent, 0)
            return
        self._publish(packed, serial, spent, RESULT)

    def _fail(self, serial: int, error: BaseException, spent: int, skip: int) -> None:
        whole, body = pack_error(error, skip)
        self._publish(body, serial, spent, RAISED if whole else LOST)

    def _publish(self, packed: Any, serial: int, pipe: int, kind: int) -> None:
        sender = self.sender
        while True:
            if type(packed) is bytes:
                if sender.publish(packed, b"", pipe, serial, kind):
                    return
                size = len(packed)
            else:
                large: Large = packed
                if gather(sender, large.parts, large.header_length, pipe, serial, kind):
                    return
                size = large.size
            if not sender.arm(size):
                wait_readable(sender.bell, FOREVER)

    def _mind_forks(self) -> None:
        """A child that the task forked, and that came back here, has no place at this bench."""
        if self.forked:
            os._exit(0)

    # --- A batch

    def _batch(self, record: Record, kind: int) -> None:
        row = self.row
        serial = record.serial
        begun = time.monotonic_ns()
        row[SINCE] = begun
        row[ITEM] = 0
        row[SERIAL] = serial
        row[STAGE] = BUSY
        function = self._functions[record.pipe]
        items: Any = pickle.loads(record.body()) if kind & EACH else self.values.unpack(record.body())
        if type(function) is _Unknown:
            problem = unreadable("the function", function.error)
            problem.__cause__ = function.error
            function = _Raising(problem)
        elif kind & EACH:
            function = _Reading(function, self.values, kind & STAR != 0)
        if type(items) is not list:  # a range, which is its own short pickle
            items = list(items)
        self._do_items(items, function, kind, serial)
        if self.forked:
            self._mind_forks()
        record.release()

    def _do_items(self, items: list[Any], function: Any, kind: int, serial: int) -> None:
        row = self.row
        walk = Walk(items, row, ITEM, SINCE if kind & TIMED else -1, SOON if kind & EAGER else LATER)
        apply: Any = itertools.starmap if kind & STAR and not kind & EACH else map
        results: list[Any] = []
        errors: dict[int, Any] = {}
        published = 0
        begun = time.monotonic_ns()
        while True:
            try:
                # What was done before an exception stays in the list. (By name: mypyc's own extend makes a list first.)
                getattr(results, "extend")(apply(function, walk))  # noqa: B009
                if len(results) <= walk.index - published:
                    raise StopIteration  # the task has raised it, which ends a map in silence
            except BaseException as error:  # SystemExit and KeyboardInterrupt too, as executors have it
                self._mind_forks()
                results.append(None)
                errors[walk.index - published] = pack_error(error, 1)
                row[FAILED] += 1
                continue
            if not walk.paused:
                break
            now = time.monotonic_ns()
            self._part(serial, published, results, errors, now - begun)
            published, results, errors = walk.index + 1, [], {}
            begun = now
            walk.resume()
        if self.forked:
            self._mind_forks()
        row[DONE] += len(items)
        self._part(serial, published, results, errors, time.monotonic_ns() - begun)

    def _part(self, serial: int, first: int, results: list[Any], errors: dict[int, Any], spent: int) -> None:
        values = self.values
        if PLAIN.issuperset(set(map(type, results))):
            body = pickle.dumps((False, results, errors or None, spent), 5)
            self._publish(body, serial, first, PART)
            return
        # Each by itself: one that cannot be sent, or read over there, spoils no other.
        at = first
        packed: list[Any] = []
        begin = 0
        for index, value in enumerate(results):
            if index in errors:
                packed.append(None)
                continue
            try:
                one = values.pack(value)
            except Exception as error:
                errors[index] = pack_error(unsendable_result(value, error), 0)
                packed.append(None)
                continue
            if type(one) is bytes:
                packed.append(one)
                continue
            if packed:
                self._some(serial, at, packed, errors, begin, spent)
            self._publish(one, serial, first + index, PART)
            packed = []
            begin = index + 1
            at = first + begin
        if packed:
            self._some(serial, at, packed, errors, begin, spent)

    def _some(self, serial: int, at: int, packed: list[Any], errors: dict[int, Any], begin: int, spent: int) -> None:
        end = begin + len(packed)
        own = {index - begin: error for index, error in errors.items() if begin <= index < end}
        self._publish(pickle.dumps((True, packed, own or None, spent), 5), serial, at, PART)

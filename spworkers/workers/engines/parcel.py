"""A call on its way to a worker of somebody else's, and its outcome on the way back.

Both are pickled here and not by the engine. So functions of `__main__` and lambdas go by value on every engine; no
keyword of the user's function is taken for one of the engine's; and whatever goes wrong over there comes back as data,
also an exception that cannot be unpickled, a result that cannot be pickled, and SystemExit.

Buffers (arrays) stay beside the pickle: an engine that has pickle protocol 5 carries them without another copy.
"""

from __future__ import annotations

import pickle
from typing import Any, Final

from spworkers.workers.byvalue import pickled
from spworkers.workers.pool.functions import name_of
from spworkers.workers.pool.values import (
    error_of,
    pack_error,
    unreadable,
    unreadable_result,
    unsendable_arguments,
    unsendable_result,
)

__all__ = ["Parcel", "opened", "packed", "perform"]

DONE: Final = "done"
RAISED: Final = "raised"


class Parcel:
    """A pickled value: `stream`, and the buffers that lie beside it."""

    __slots__ = ("buffers", "size", "stream")

    def __init__(self, stream: Any, buffers: list[Any]) -> None:
        self.stream = stream
        self.buffers = buffers
        self.size = sum(memoryview(piece).nbytes for piece in (stream, *buffers))

    @classmethod
    def of(cls, value: Any) -> Parcel:
        """Pickle a value. Whatever the `__reduce__` of somebody's object raises is raised."""
        buffers: list[pickle.PickleBuffer] = []

        def beside(buffer: pickle.PickleBuffer) -> bool:
            try:
                buffers.append(buffer.raw())  # type: ignore[arg-type]
            except BufferError:  # not contiguous
                return True
            return False

        return cls(pickled(value, 5, beside), buffers)

    def value(self) -> Any:
        """The value, made anew; its buffers are copies, so that whoever gets them may write into them."""
        return pickle.loads(self.stream, buffers=[bytearray(buffer) for buffer in self.buffers])

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            return Parcel, (pickle.PickleBuffer(self.stream), [pickle.PickleBuffer(each) for each in self.buffers])
        return Parcel, (bytes(self.stream), [bytes(buffer) for buffer in self.buffers])

    def __sizeof__(self) -> int:
        return self.size  # by which Dask decides what is costly to move

    def __repr__(self) -> str:
        return f"<Parcel: {self.size} bytes>"


def packed(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Parcel:
    """A call.

    Raises:
        SerializationError: it cannot be pickled.
    """
    try:
        return Parcel.of((fn, args, kwargs))
    except Exception as error:
        raise unsendable_arguments(name_of(fn), error) from error


def perform(call: Parcel) -> Parcel:
    """What a worker does: the call; returns its outcome. Nothing is raised, whatever the call does."""
    try:
        fn, args, kwargs = call.value()
    except Exception as error:
        return _failed(unreadable("the task's arguments", error))
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # SystemExit too: the worker is not ours to end
        return _failed(error)
    try:
        return Parcel.of((DONE, result))
    except Exception as error:
        return _failed(unsendable_result(result, error))


def opened(outcome: Parcel) -> tuple[Any, BaseException | None]:
    """What the call has returned, or what it has raised, with the worker's traceback as its cause.

    Returned and not raised, and without a traceback (Dask sees to it that exceptions carry one): it would keep the
    frames of whoever asked, and so the engine's handle, as long as the error lives.
    """
    try:
        kind, value = outcome.value()
    except Exception as error:
        return None, unreadable_result(error.with_traceback(None))
    return (value, None) if kind == DONE else (None, error_of(*value).with_traceback(None))


def _failed(error: BaseException) -> Parcel:
    return Parcel.of((RAISED, pack_error(error)))

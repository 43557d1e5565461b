"""A client of the call format that knows nothing of spworkers: pynng and msgpack only."""

import itertools
import os
import struct

import msgpack
import pynng


class CallError(Exception):
    """The server's error: `kind`, and everything else that it said."""

    def __init__(self, error):
        super().__init__(f"{error['kind']}: {error['message']}")
        self.kind, self.error = error["kind"], error


class Client:
    def __init__(self, address):
        self.socket = pynng.Req0(dial=address)
        self.ids = itertools.count(int.from_bytes(os.urandom(7), "big"))

    def call(self, name, *args, timeout=0.0, **kwargs):
        """Call a handler; a list of all items if it is a generator."""
        number, patience = next(self.ids), int(timeout * 1000)
        content = msgpack.packb([name, args, kwargs] if kwargs else [name, args])
        kind, value = self._ask(struct.pack(">BBQI", 0xC1, 0x10, number, patience) + content, number, timeout)
        if kind == 0x11:
            return value
        items, part = value, 0
        while kind == 0x13:  # with one server at the address, its connection is the only one
            part += 1
            request = struct.pack(">BBQII", 0xC1, 0x15, number, patience, part)
            kind, value = self._ask(request, number, timeout)
            items += value
        return items

    def _ask(self, request, number, timeout):
        self.socket.recv_timeout = int(timeout * 1000) or -1
        self.socket.send(request)
        answer = self.socket.recv()
        mark, kind, answered = struct.unpack_from(">BBQ", answer)
        value = msgpack.unpackb(answer[10:])
        if mark != 0xC1 or answered not in (number, 0):
            raise ValueError("this is not the answer to the call")
        if kind == 0x12:
            raise CallError(value)
        return kind, value

    def close(self):
        self.socket.close()

"""The user's half of a protocol, where its I/O process does something in an unlucky moment: that one is played here."""

from __future__ import annotations

import os

from spworkers.halves import half_for
from spworkers.port import Port
from spworkers.ring import Inlet, Region, make_bell
from spworkers.waiting import Deadline


def test_an_answer_to_a_former_survey_that_comes_late_is_nobodys() -> None:
    """The I/O process had it before it knew of the new survey."""
    io_bell = make_bell()
    port = Port(Region.create(1 << 20), 0, io_bell)
    try:
        half = half_for("surveyor", False, port)
        inlet = Inlet(port.rx.segment, port.bells[0])
        inlet.window = 8
        for body in (b"former", b"new"):
            assert half.try_send(body, b"")
        for serial, answer in enumerate([b"late", b"due"], 1):
            assert inlet.offer(b"", b"\x80\0\0\1" + answer, 4, 7, serial)
        assert half.take_body() is None, "it has to be looked at"
        record = half.receive(Deadline(0.0))
        assert record is not None
        assert record.take_body() == b"due"
        assert port.dropped == {"canceled": 1}
    finally:
        port.close()
        os.close(io_bell)

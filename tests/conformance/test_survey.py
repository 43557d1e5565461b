"""SURVEYOR and RESPONDENT, cooked and raw."""

from __future__ import annotations

import itertools

import pytest
from helpers import eventually
from sockets.kit import BOUND, SOON, background, drops, error_of, joined, wait_blocked, wait_pipes

import spworkers as sp
from conformance.common import Far, thirty_contexts_answer
from spworkers import Respondent, Surveyor


def test_surveyor_gets_every_answer_then_the_end(address: str) -> None:
    surveyor, respondents = Surveyor(survey_time=0), [Respondent() for _ in range(3)]
    with joined(surveyor, *respondents, address=address):
        with pytest.raises(sp.ProtoStateError):
            surveyor.recv()
        surveyor.send(b"who?")
        for number, respondent in enumerate(respondents):
            assert respondent.recv(timeout=BOUND) == b"who?"
            respondent.send(b"%d" % number)
        assert {surveyor.recv(timeout=BOUND) for _ in range(3)} == {b"0", b"1", b"2"}
        surveyor.survey_time = 0.5
        surveyor.send(b"still there?")
        with pytest.raises(sp.RecvTimeoutError, match="over"):
            surveyor.recv()
        with pytest.raises(sp.ProtoStateError):
            surveyor.recv()


def test_surveyor_end_is_told_to_all_who_wait() -> None:
    with Surveyor(survey_time=1.0) as surveyor:
        surveyor.send(b"x")
        waiting = [background(surveyor.recv) for _ in range(3)]
        wait_blocked(surveyor, 3)
        assert [type(error_of(each)) for each in waiting] == [sp.RecvTimeoutError] * 3


def test_surveyor_end_that_nobody_waited_for_is_no_survey() -> None:
    with Surveyor(survey_time=0.01) as surveyor:
        surveyor.send(b"x")
        eventually(lambda: surveyor._port.rx.arm(), BOUND, what="the end is told")
        for _ in range(2):
            with pytest.raises(sp.ProtoStateError):
                surveyor.recv(timeout=BOUND)


def test_surveyor_deadline_leaves_the_survey_alive() -> None:
    surveyor, respondent = Surveyor(survey_time=0), Respondent()
    with joined(surveyor, respondent):
        surveyor.send(b"x")
        with pytest.raises(sp.RecvTimeoutError):
            surveyor.recv(timeout=SOON)
        respondent.recv(timeout=BOUND)
        respondent.send(b"late but in time")
        assert surveyor.recv(timeout=BOUND) == b"late but in time"


def test_surveyor_new_survey_cancels_the_waiting_recv_and_old_answers() -> None:
    surveyor, respondent = Surveyor(survey_time=0), Respondent()
    with joined(surveyor, respondent):
        surveyor.send(b"first")
        waiting = background(surveyor.recv)
        wait_blocked(surveyor)
        assert respondent.recv(timeout=BOUND) == b"first"
        surveyor.send(b"second")
        assert isinstance(error_of(waiting), sp.CanceledError)
        respondent.send(b"late")
        assert respondent.recv(timeout=BOUND) == b"second"
        respondent.send(b"good")
        assert surveyor.recv(timeout=BOUND) == b"good"


def test_surveyor_close_aborts_recv_and_contexts_are_independent() -> None:
    surveyor, respondent = Surveyor(survey_time=0), Respondent()
    with joined(surveyor, respondent):
        contexts = [surveyor.open_context() for _ in range(5)]
        for number, context in enumerate(contexts):
            context.send(b"%d" % number)
        for _ in contexts:
            respondent.send(respondent.recv(timeout=BOUND) * 2)
        for number, context in enumerate(contexts):
            assert context.recv(timeout=BOUND) == b"%d" % number * 2
        waiting = background(contexts[0].recv)
        wait_blocked(contexts[0])
        surveyor.close()
        assert isinstance(error_of(waiting), sp.ClosedError)


def test_respondent_needs_a_survey_and_xrespondent_routes() -> None:
    surveyor, respondent = Surveyor(raw=True), Respondent(raw=True)
    with Respondent() as lonely, pytest.raises(sp.ProtoStateError):
        lonely.send(b"x")
    with joined(surveyor, respondent):
        surveyor.send_msg(sp.Message(b"who?", b"\x80\0\0\1"))
        survey = respondent.recv_msg(timeout=BOUND)
        assert survey.pipe is not None
        assert survey.header == survey.pipe.id.to_bytes(4, "big") + b"\x80\0\0\1"
        respondent.send_msg(sp.Message(b"me", survey.header))
        answer = surveyor.recv_msg(timeout=BOUND)
        assert (answer.header, answer.body) == (b"\x80\0\0\1", b"me")


def test_surveyor_queue_takes_exactly_two_answers_of_a_hundred(mock_far: Far) -> None:
    with Surveyor(survey_time=0, readq_len=2) as surveyor:
        peers = [mock_far.meet(surveyor) for _ in range(10)]
        surveyor.send(b"who?")
        for index, peer in enumerate(peers):
            question = peer.recv()
            for number in range(10):
                peer.send(question[:4] + b"%d %d" % (index, number))
        eventually(lambda: drops(surveyor) == {"congested": 98}, BOUND)
        for _ in range(2):
            surveyor.recv(timeout=BOUND)
        with pytest.raises(sp.RecvTimeoutError):
            surveyor.recv(timeout=0)


def test_surveyor_drops_late_answers_of_a_former_survey(far: Far) -> None:
    with Surveyor(survey_time=0) as surveyor:
        peer = far.meet(surveyor)
        surveyor.send(b"first")
        first = peer.recv()[:4]
        for number in range(3):
            peer.send(first + b"queued %d" % number)
        eventually(lambda: surveyor.stats()["received"] == 3, BOUND)
        surveyor.send(b"second")
        second = peer.recv()[:4]
        assert second != first
        peer.send(first + b"late")
        peer.send(second + b"good")
        assert surveyor.recv(timeout=BOUND) == b"good"
        assert drops(surveyor) == {"canceled": 3, "unknown_reply": 1}


def test_surveyor_drops_garbage_and_keeps_the_pipe(far: Far) -> None:
    with Surveyor(survey_time=0) as surveyor:
        peer = far.meet(surveyor)
        surveyor.send(b"who?")
        question = peer.recv()
        for junk in (b"", b"\0", b"\0\1\2\3", b"\0\1\2\3\x80", question[:3], b"\x80\0\0\0nobody's"):
            peer.send(junk)
        peer.send(question[:4] + b"good")
        assert surveyor.recv(timeout=BOUND) == b"good"
        assert sum(drops(surveyor).values()) == 6
        assert len(surveyor.pipes) == 1


def test_surveyor_thirty_contexts_with_twenty_surveys_each(far: Far) -> None:
    with Surveyor(survey_time=0) as surveyor:
        peer = far.meet(surveyor)
        contexts = [surveyor.open_context() for _ in range(30)]
        for number in range(20):
            for index, context in enumerate(contexts):
                context.send(b"%d %d" % (index, number))
            for _ in contexts:
                question = peer.recv()
                peer.send(question + b" answered")
            for index, context in enumerate(contexts):
                assert context.recv(timeout=BOUND) == b"%d %d answered" % (index, number)
        assert drops(surveyor) == {}


def test_respondent_drops_or_refuses_junk(far: Far) -> None:
    """A message without an end of its backtrace closes its pipe, as in nng; mangos drops it."""
    with Respondent() as respondent:
        for junk in (b"", b"\0\1", b"\0\1\2\3", b"\0\1\2\3\0"):
            peer = far.meet(respondent)
            peer.send(junk)
            assert peer.ended()
        good = far.meet(respondent)
        good.send(b"\0\0\0\1\x80\0\0\1question")
        assert respondent.recv(timeout=BOUND) == b"question"
        respondent.send(b"answer")
        assert good.recv() == b"\0\0\0\1\x80\0\0\1answer"
        assert drops(respondent) == {"garbled": 4}


def test_respondent_answer_to_a_vanished_surveyor_is_no_error(far: Far) -> None:
    with Respondent() as respondent:
        peer = far.meet(respondent)
        peer.send(b"\x80\0\0\1question")
        assert respondent.recv(timeout=BOUND) == b"question"
        peer.close()
        wait_pipes(respondent, 0)
        respondent.send(b"to nobody", timeout=BOUND)
        eventually(lambda: drops(respondent) == {"no_pipe": 1}, BOUND)


def test_respondent_blocks_on_a_peer_that_does_not_read_and_best_effort_does_not(mock_far: Far) -> None:
    with Respondent(send_deadline=SOON, linger=-1) as respondent:
        peer = mock_far.meet(respondent)

        def answer_all() -> None:
            for number in itertools.count():
                peer.send((number | 0x80000000).to_bytes(4, "big"))
                respondent.recv(timeout=BOUND)
                respondent.send(bytes(1000))

        with pytest.raises(sp.SendTimeoutError):
            answer_all()
        respondent.best_effort = True
        for number in range(5):
            peer.send((number | 0x80000000).to_bytes(4, "big"))
            respondent.recv(timeout=BOUND)
            respondent.send(bytes(1000))
        assert drops(respondent)["best_effort"] == 5


def test_respondent_thirty_contexts_with_twenty_surveys_each(far: Far) -> None:
    thirty_contexts_answer(far, Respondent())

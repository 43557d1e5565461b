"""Doorbells: rung when the other side sleeps, and only then; readable while there is something; never lost."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from helpers import eventually

from ring.support import BUDGET, CONSUMER_WAITS, PRODUCER_WAITS, RECV, SLOTS, Lane, Memory, readable
from spworkers import waiting
from spworkers.ring import Record, Region, free_bells, hold_bells, hush_bell, make_bell, ring_bell, wait_readable
from spworkers.waiting import Sleepers, Steps, Wait, run

PATIENCE = 30.0


@pytest.fixture
def bell() -> Iterator[int]:
    fd = make_bell()
    yield fd
    os.close(fd)


# ---- one bell


def test_a_bell_rings_until_it_is_hushed(bell: int) -> None:
    assert not readable(bell)
    for _ in range(3):
        ring_bell(bell)
        assert readable(bell)
    hush_bell(bell)
    assert not readable(bell)
    hush_bell(bell)
    assert not readable(bell)
    assert not os.get_inheritable(bell)


def test_a_wait_ends_with_the_ring_or_the_time(bell: int) -> None:
    assert not wait_readable(bell, 0.0)
    assert not wait_readable(bell, -1.0)
    assert not wait_readable(bell, 0.001)
    ring_bell(bell)
    for timeout in (0.0, 1.0, 1e300, float("inf")):
        assert wait_readable(bell, timeout)


def test_a_bell_that_does_not_exist_ends_the_wait() -> None:
    fd = make_bell()
    os.close(fd)
    assert wait_readable(fd, PATIENCE)


# ---- the receiver's


def test_a_receiver_is_rung_only_while_it_sleeps(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.put(b"1")
    assert not readable(lane.bell), "it was not asleep"
    assert lane.consumer.arm(), "something is there"
    assert readable(lane.bell), "and so the bell rings for all others who sleep"
    assert lane.receive() == b"1"
    assert not lane.consumer.arm()
    assert not readable(lane.bell)
    lane.put(b"2")
    assert readable(lane.bell)
    lane.put(b"3")
    hush_bell(lane.bell)
    lane.put(b"4")
    assert not readable(lane.bell), "one ring wakes, more cost a system call each"
    assert lane.drain() == [b"2", b"3", b"4"]


def test_bells_that_are_held_ring_when_they_are_free(recv_lane: Lane) -> None:
    other = Lane(RECV, region=recv_lane.region, index=1)
    with other:
        for lane in (recv_lane, other):
            assert not lane.consumer.arm()
        hold_bells()
        hold_bells()
        assert recv_lane.put(b"1")
        assert recv_lane.put(b"2")
        assert not readable(recv_lane.bell)
        free_bells()
        assert not readable(recv_lane.bell), "somebody holds them still"
        free_bells()
        assert readable(recv_lane.bell)
        assert not readable(other.bell), "it has got nothing"
        assert recv_lane.drain() == [b"1", b"2"]
        assert not recv_lane.consumer.arm()
        recv_lane.put(b"3")
        assert readable(recv_lane.bell)


def test_nobody_waits_for_many_messages(recv_lane: Lane) -> None:
    hold_bells()
    assert not recv_lane.consumer.arm()
    sent = 0
    while not readable(recv_lane.bell):
        assert recv_lane.put(b"x")
        sent += 1
        assert sent < 100
    assert sent > 1
    free_bells()
    assert len(recv_lane.drain()) == sent


def test_a_lane_that_is_gone_is_not_rung() -> None:
    hold_bells()
    with Lane(RECV) as lane:
        assert not lane.consumer.arm()
        assert lane.put(b"x")
        lane.producer = None  # the bell is open still
    gc.collect()
    free_bells()


def test_many_lanes_are_rung(recv_lane: Lane) -> None:
    with contextlib.ExitStack() as stack:
        lanes = [stack.enter_context(Lane(RECV, region=recv_lane.region, index=index)) for index in range(1, 50)]
        for lane in lanes:
            assert not lane.consumer.arm()
        hold_bells()
        for lane in lanes:
            assert lane.put(b"x")
        free_bells()
        assert all(readable(lane.bell) for lane in lanes)


def test_arming_leaves_no_ring_behind(recv_lane: Lane) -> None:
    """A ring that comes while the flag is set (late, or after a death, from the supervisor) makes no busy loop."""
    lane = recv_lane
    assert not lane.consumer.arm()
    ring_bell(lane.bell)
    assert not lane.consumer.arm()
    assert not readable(lane.bell)
    lane.put(b"1")
    assert readable(lane.bell)


def test_what_is_inherited_is_there(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.put(b"x")
    record = lane.take()
    assert lane.adopt_consumer() == 1
    assert lane.consumer.arm()
    assert lane.receive() == b"x"
    assert not lane.consumer.arm()
    del record


def test_a_record_that_was_taken_back_is_not_there(recv_lane: Lane) -> None:
    lane = recv_lane
    ticket = lane.put(b"x")
    assert lane.producer.revoke(ticket)
    assert not lane.consumer.arm()
    assert not readable(lane.bell)
    assert lane.consumer.skipped == 1


def test_waking_wakes(recv_lane: Lane, send_lane: Lane) -> None:
    assert not recv_lane.consumer.arm()
    recv_lane.consumer.wake()
    assert readable(recv_lane.bell)
    send_lane.window = 0
    assert not send_lane.producer.arm()
    send_lane.producer.wake()
    assert readable(send_lane.bell)


def test_a_closed_lane_lets_nobody_sleep(recv_lane: Lane, send_lane: Lane) -> None:
    lane = recv_lane
    assert not lane.consumer.closed
    lane.put(b"the last")
    lane.producer.close()
    assert lane.consumer.closed
    assert readable(lane.bell)
    assert lane.consumer.arm()
    assert lane.receive() == b"the last"
    assert lane.consumer.arm() and readable(lane.bell)
    assert not send_lane.producer.closed
    send_lane.window = 0
    assert not send_lane.producer.arm()
    ticket = send_lane.put(b"x", force=True)
    send_lane.producer.close()
    assert send_lane.producer.closed and send_lane.consumer.closed
    assert readable(send_lane.bell)
    assert send_lane.producer.arm() and send_lane.producer.arm_for(ticket)


def test_a_closing_lane_wakes_who_sleeps(recv_lane: Lane) -> None:
    lane = recv_lane
    assert not lane.consumer.arm()
    lane.producer.close()
    assert readable(lane.bell)
    assert lane.consumer.arm()
    assert readable(lane.bell)


def test_a_new_io_process_wakes_those_who_announced_themselves_to_its_predecessor(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 0
    epoch = lane.consumer.announce()
    assert not lane.consumer.arm(epoch)
    lane.adopt_producer()
    assert readable(lane.bell)
    assert lane.consumer.arm(epoch), "or it came between the announcement and the arming"
    epoch = lane.consumer.announce()
    assert not lane.consumer.arm(epoch)
    assert not lane.consumer.arm()
    assert not readable(lane.bell)


# ---- watched from outside (`fileno`)


def test_a_watched_bell_is_readable_exactly_while_there_is_a_message(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.put(b"before")
    lane.consumer.watch()
    assert readable(lane.bell)
    assert lane.receive() == b"before"
    assert not readable(lane.bell)
    for _ in range(3):
        for number in range(5):
            lane.put(bytes([number]))
            assert readable(lane.bell)
        for number in range(5):
            assert readable(lane.bell)
            assert lane.receive() == bytes([number])
        assert not readable(lane.bell)


def test_a_watched_bell_is_settled_by_the_next_look(recv_lane: Lane) -> None:
    """What made it readable was taken back, or somebody else rang: nothing is there, and it is seen once."""
    lane = recv_lane
    lane.consumer.watch()
    assert lane.producer.revoke(lane.put(b"x"))
    assert readable(lane.bell)
    assert lane.receive() is None
    assert not readable(lane.bell)
    ring_bell(lane.bell)
    assert lane.receive() is None
    assert not readable(lane.bell)
    lane.put(b"y")
    assert readable(lane.bell)


def test_a_watched_bell_of_inherited_records(recv_lane: Lane) -> None:
    lane = recv_lane
    for body in (b"1", b"2", b"3"):
        lane.put(body)
    held = [lane.take(), lane.take()]
    lane.adopt_consumer()
    lane.consumer.watch()
    for body in (b"1", b"2", b"3"):
        assert readable(lane.bell)
        assert lane.receive() == body
    assert not readable(lane.bell)
    del held


def test_a_bell_is_watched_no_more(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.consumer.watch()
    lane.consumer.watch(False)
    lane.put(b"x")
    assert lane.receive() == b"x"
    with Memory(lane) as memory:
        assert memory.get(CONSUMER_WAITS, "I") == 0, "taking does not arm any more"


# ---- the sender's


def test_a_sender_is_rung_when_a_place_comes_back(send_lane: Lane) -> None:
    lane = send_lane
    lane.window = 1
    lane.put(b"1")
    assert not lane.producer.arm()
    record = lane.pop()
    assert record is not None
    assert not readable(lane.bell)
    assert record.claim()
    assert readable(lane.bell), "a hand-off may be what it waits for"
    assert not lane.producer.arm()
    assert not readable(lane.bell)
    record.release()
    assert readable(lane.bell)
    assert lane.producer.arm()
    with Memory(lane) as memory:
        assert memory.get(PRODUCER_WAITS, "I") == 0
    assert readable(lane.bell), "there is room, for all who wait for it"


def test_a_sender_is_rung_when_bytes_come_back(send_lane: Lane) -> None:
    lane = send_lane
    lane.put(bytes(BUDGET))
    assert lane.producer.arm(192)
    assert lane.producer.arm(BUDGET + 1), "that is beyond the budget"
    assert not lane.producer.arm(193)
    assert not lane.producer.arm(193, True)
    assert lane.receive() is not None
    assert readable(lane.bell)
    assert lane.producer.arm(BUDGET)


def full(lane: Lane, count: int) -> list[Record]:
    """So many messages, which fill the window, and are on their way."""
    lane.window = count
    for number in range(count):
        assert lane.put(b"%d" % number)
    assert not lane.put(b"one more")
    return [record for record in (lane.take() for _ in range(count)) if record]


def test_a_calm_sender_is_rung_when_half_of_what_is_on_its_way_is_gone(send_lane: Lane) -> None:
    records = full(send_lane, 40)
    assert not send_lane.producer.arm(0, False, True)
    for record in records[:19]:
        record.release()
    assert not readable(send_lane.bell)
    records[19].release()
    assert readable(send_lane.bell)
    assert [bool(send_lane.put(b"x")) for _ in range(21)] == 20 * [True] + [False]


def test_a_calm_sender_looks_before_it_sleeps(send_lane: Lane) -> None:
    full(send_lane, 40)[0].release()
    assert send_lane.producer.arm(0, False, True)


def test_a_calm_sender_is_in_a_hurry_where_few_are_on_their_way(send_lane: Lane) -> None:
    records = full(send_lane, 15)
    assert not send_lane.producer.arm(0, False, True)
    records[3].release()
    assert readable(send_lane.bell)


def test_a_calm_sender_makes_nobody_wait_who_is_in_a_hurry(send_lane: Lane) -> None:
    records = full(send_lane, 40)
    assert not send_lane.producer.arm()
    assert not send_lane.producer.arm(0, False, True)
    records[3].release()
    assert readable(send_lane.bell)


def test_a_calm_sender_is_told_of_the_end(send_lane: Lane) -> None:
    records = full(send_lane, 40)
    assert not send_lane.producer.arm(0, False, True)
    send_lane.producer.close()
    assert len(records) == 40
    assert readable(send_lane.bell)
    assert send_lane.producer.arm(0, False, True)


def test_arming_by_force_asks_for_no_window(send_lane: Lane) -> None:
    send_lane.window = 0
    assert not send_lane.producer.arm(10)
    assert send_lane.producer.arm(10, True)


def test_nobody_sleeps_for_what_no_lane_can_hold(send_lane: Lane) -> None:
    for size in (64 << 30, 2**64 - 1):
        assert send_lane.producer.arm(size), "trying says why"


def test_a_sender_waits_for_a_claim_or_a_release(send_lane: Lane) -> None:
    lane = send_lane
    ticket = lane.put(b"x")
    arm_for = lane.producer.arm_for
    assert not arm_for(ticket)
    record = lane.take()
    assert record is not None
    assert readable(lane.bell)
    assert arm_for(ticket)
    assert not arm_for(ticket, True)
    view = record.view()
    assert arm_for(ticket)
    assert not arm_for(ticket, True)
    record.release()
    view.release()
    assert readable(lane.bell)
    assert arm_for(ticket, True)
    assert lane.producer.revoke(taken_back := lane.put(b"y"))
    assert arm_for(taken_back) and arm_for(taken_back, True)
    assert arm_for(0) and arm_for(2**64 - 1)


def test_a_sender_leaves_no_ring_behind(send_lane: Lane) -> None:
    lane = send_lane
    lane.window = 0
    ticket = lane.put(b"x", force=True)
    assert not lane.producer.arm()
    for arm in (lane.producer.arm, lambda: lane.producer.arm_for(ticket)):
        ring_bell(lane.bell)
        assert not arm()
        assert not readable(lane.bell)


# ---- the I/O process's bell and the board


def test_the_board_says_who_rang(send_lane: Lane) -> None:
    region, bell = send_lane.region, send_lane.io_bell
    others = [Lane(0, region=region, index=index) for index in (1, 63, 64, 1023)]
    assert region.collect() == []
    assert not region.rearm(), "now it sleeps"
    for lane in [send_lane, *others, others[1]]:
        lane.producer = type(lane.producer)(lane.segment, lane.bell, bell)
        lane.window = 9
        lane.put(b"x")
    assert readable(bell)
    hush_bell(bell)
    assert region.rearm(), "not before it has collected"
    assert region.collect() == [0, 1, 63, 64, 1023]
    assert region.collect() == []
    assert not region.rearm()
    for lane in others:
        lane.close()


def test_a_busy_io_process_is_not_rung(send_lane: Lane) -> None:
    lane = send_lane
    lane.put(b"1")
    assert not readable(lane.io_bell)
    assert lane.region.rearm()
    lane.region.collect()
    assert not lane.region.rearm()
    lane.put(b"2")
    assert readable(lane.io_bell)
    hush_bell(lane.io_bell)
    lane.put(b"3")
    assert not readable(lane.io_bell)
    assert lane.region.collect() == [0]


def test_anybody_may_have_the_io_process_look(send_lane: Lane) -> None:
    region = send_lane.region
    region.rearm()
    Region.attach(region.fd).ring(17, send_lane.io_bell)
    assert readable(send_lane.io_bell)
    assert region.collect() == [17]


def test_an_inlet_is_told_of_room_and_of_demand(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 1
    lane.put(b"x")
    assert not lane.producer.arm()
    assert lane.region.collect() == []
    assert lane.receive() == b"x"
    assert lane.region.collect() == [0]
    lane.window = 0
    assert not lane.producer.arm()
    lane.consumer.announce()
    assert lane.region.collect() == [0]
    assert lane.producer.arm()
    lane.put(bytes(BUDGET))
    lane.consumer.announce()
    assert not lane.producer.arm(1000), "there is demand, but no room"


# ---- threads that sleep on one bell for different things


def start(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_a_wait_ends_with_either_bell(bell: int) -> None:
    other = make_bell()
    try:
        assert not wait_readable(bell, 0.001, other)
        for rung in (bell, other):
            ring_bell(rung)
            assert wait_readable(bell, PATIENCE, other)
            hush_bell(rung)
    finally:
        os.close(other)


def test_a_brief_look_around_lasts_only_while_others_run(recv_lane: Lane) -> None:
    begin = time.monotonic()
    assert not recv_lane.consumer.look(1000.0, True)
    assert time.monotonic() - begin < 500.0
    recv_lane.put(b"x")
    assert recv_lane.consumer.look(1000.0, True)


def test_a_receiver_waits_in_one_call(recv_lane: Lane, bell: int) -> None:
    rx = recv_lane.consumer
    assert rx.wait(0.0, bell, True) == 0
    assert rx.wait(0.001, bell, True) == 0
    recv_lane.put(b"x")
    assert readable(recv_lane.bell), "the wait armed it"
    assert rx.wait(PATIENCE, bell, True) == 1
    assert recv_lane.receive() == b"x"
    ring_bell(bell)
    assert rx.wait(PATIENCE, bell, True) == 2 | 4, "arming silenced the ring of what was taken"
    rx.hushed = False
    assert rx.wait(PATIENCE, bell, True) == 2
    hush_bell(bell)
    ring_bell(recv_lane.bell)
    assert rx.wait(PATIENCE, bell, False) == 1 | 4, "it took a ring away that others may wait for"
    rx.hushed = False
    recv_lane.producer.close()
    assert rx.wait(PATIENCE, bell, True) == 1


@pytest.mark.parametrize("act", ["put", "wake", "close"])
def test_what_ends_the_one_call(recv_lane: Lane, bell: int, act: str) -> None:
    rx = recv_lane.consumer
    answers: list[int] = []
    thread = start(1, lambda _: answers.append(rx.wait(PATIENCE, bell, True)))[0]
    with Memory(recv_lane) as memory:
        eventually(lambda: memory.get(CONSUMER_WAITS, "I") == 1, what="the arming")
    {"put": lambda: recv_lane.put(b"x"), "wake": rx.wake, "close": recv_lane.producer.close}[act]()
    thread.join(PATIENCE)
    assert answers == [1]


def test_who_looks_around_finds_what_comes_meanwhile_and_needs_no_bell(recv_lane: Lane, bell: int) -> None:
    rx = recv_lane.consumer
    answers: list[int] = []
    thread = start(1, lambda _: answers.append(rx.wait(PATIENCE, bell, True, PATIENCE)))[0]
    recv_lane.put(b"x")
    thread.join(PATIENCE)
    assert answers == [1 | 8]
    assert not readable(recv_lane.bell)
    assert rx.wait(PATIENCE, bell, True, PATIENCE) == 1 | 8, "it is still there"
    assert rx.wait(PATIENCE, bell, False, PATIENCE) == 1 | 8
    assert readable(recv_lane.bell), "others sleep on it"
    assert recv_lane.receive() == b"x"


def test_who_looks_around_in_vain_waits(recv_lane: Lane, bell: int) -> None:
    rx = recv_lane.consumer
    assert rx.wait(0.001, bell, True, 1e-6) == 0
    ring_bell(bell)
    assert rx.wait(PATIENCE, bell, True, 1e-6) == 2
    recv_lane.producer.close()
    assert rx.wait(PATIENCE, bell, True, PATIENCE) == 1, "and looks around no longer"


def test_a_call_before_the_wait_ends_it(recv_lane: Lane, bell: int) -> None:
    """The arming silences its ring; alone on the bell one would sleep on."""
    rx = recv_lane.consumer
    rx.wake()
    assert rx.wait(PATIENCE, bell, True) & ~4 == 1
    rx.hushed = False
    assert rx.wait(0.001, bell, True) == 0, "once"


def test_a_side_says_that_it_silenced_a_ring(recv_lane: Lane, send_lane: Lane) -> None:
    """Others who sleep on the bell may not have looked yet: whoever armed rings them (`spworkers.waiting`)."""
    ticket = send_lane.put(b"x", force=True)
    send_lane.window = 0
    for side, arm in (
        (recv_lane.consumer, recv_lane.consumer.arm),
        (send_lane.producer, send_lane.producer.arm),
        (send_lane.producer, lambda: send_lane.producer.arm_for(ticket)),
    ):
        assert not arm() and not side.hushed
        ring_bell(side.bell)
        assert not arm() and side.hushed
        assert not arm() and side.hushed, "until somebody acts on it"
        side.hushed = False
        assert not arm() and not side.hushed


def test_threads_that_wait_for_different_tickets(send_lane: Lane) -> None:
    """Each hand-off is seen by its own sender, whoever is woken first by whichever ring."""
    lane, tx = send_lane, send_lane.producer
    count, turns = 6, 60
    sleepers = Sleepers()
    failed: list[BaseException] = []

    def hand_over(number: int) -> Steps[None]:
        ticket = tx.publish(bytes([number]), force=True)
        while not tx.arm_for(ticket):
            assert (yield Wait(tx, PATIENCE)), "nobody told it of its hand-off"

    def work(number: int) -> None:
        try:
            for _ in range(turns):
                run(hand_over(number), sleepers)
        except BaseException as error:
            failed.append(error)
            raise

    threads = start(count, work)
    kept: list[Record] = []
    for taken in range(count * turns):
        kept.append(eventually(lambda: failed or lane.pop(), PATIENCE, what="a message"))
        assert not failed
        if len(kept) == count or taken > count * (turns - 1):  # the last of all, and of each turn the newest first
            for record in reversed(kept):
                assert record.claim()
                record.release()
            kept.clear()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not failed
    assert lane.producer.queued == 0


def test_a_full_index_is_not_slept_on(send_lane: Lane) -> None:
    """The sender sleeps behind entries that were taken back: the consumer who steps over them must ring."""
    lane = send_lane
    lane.put(b"first")
    for _ in range(SLOTS - 1):
        assert lane.producer.revoke(lane.put(b"x"))
    assert not lane.producer.arm()
    woken: list[bool] = []

    def sleep(_: int) -> None:
        woken.append(wait_readable(lane.bell, PATIENCE))

    thread = start(1, sleep)[0]
    record = lane.pop()  # and keeps it, for want of a peer
    thread.join(PATIENCE)
    assert woken == [True]
    assert lane.put(b"now")
    assert record is not None


def test_a_sleeper_that_gets_no_bell_is_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, its end read what its beginning had not written: the process died of it."""

    def make_none() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(waiting, "make_bell", make_none)
    with pytest.raises(KeyboardInterrupt):
        waiting.ThreadSleeper()


def test_a_child_that_was_forked_in_the_middle_of_a_wait_waits_as_well() -> None:
    """The parent's main thread had the interpreter's signal handler write to its own descriptor."""
    script = """if True:
        import os, threading
        from spworkers.ring import make_bell, ring_bell, wait_readable

        low = os.pipe()
        bell, own = make_bell(), make_bell()
        assert not wait_readable(bell, 0.01)
        codes = []

        def fork():
            for _ in range(10):
                threading.Event().wait(0.005)
                pid = os.fork()
                if pid == 0:
                    for fd in low:
                        os.close(fd)
                    os._exit(0 if not wait_readable(own, 0.01) else 1)
                codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            ring_bell(bell)

        thread = threading.Thread(target=fork)
        thread.start()
        assert wait_readable(bell, 60)
        thread.join()
        assert codes == 10 * [0], codes
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")

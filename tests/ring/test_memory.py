"""What outlives what: leases, reservations, copies, and the shared memory under them."""

from __future__ import annotations

import gc
import io
import os
import threading
from collections.abc import Callable

import pytest
from helpers import eventually

from ring.support import BUDGET, CLAIMED, FREE, LEASED, RECV, SLOTS, WRITING, Lane, LaneMaker, Memory, body_of, readable
from spworkers.errors import InternalError, TooLongError
from spworkers.ring import FrameWriter, Outlet, Record, Region, Reservation, Sender

SIZES = [10, 5000, BUDGET + 1]
"""In its slot, in the arena, in an extent."""


def take(lane: Lane) -> Record:
    record = lane.take()
    assert record is not None
    return record


def in_child(act: Callable[[], None]) -> None:
    """Do something in a forked child of the user's."""
    child = os.fork()
    if not child:
        try:
            act()
            gc.collect()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


# ---- leases


@pytest.mark.parametrize("size", SIZES)
def test_a_lease_reads_without_a_copy_and_holds_its_block_only(lane: Lane, size: int) -> None:
    lane.window = 1
    ticket = lane.put(body_of(1, size), b"head")
    record = take(lane)
    view = record.view()
    record.release()
    assert view == body_of(1, size)
    assert view.readonly and view.nbytes == size and view.contiguous
    for number in range(2, 100 if size < BUDGET else 10):
        assert lane.put(body_of(number, size)), "the window is open"
        assert lane.receive() == body_of(number, size)
    assert view == body_of(1, size)
    assert lane.producer.queued == 0
    assert lane.producer.state(ticket) == LEASED
    view.release()
    assert lane.producer.state(ticket) == FREE
    assert (lane.producer.queued, lane.producer.bytes) == (0, 0)


def test_a_leased_block_counts_in_the_budget(lane: Lane) -> None:
    lane.put(bytes(BUDGET // 2))
    record = take(lane)
    view = record.view()
    record.release()
    assert lane.put(bytes(BUDGET // 2))
    assert not lane.put(bytes(1000))
    view.release()
    assert lane.put(bytes(1000))


def test_a_lease_opens_the_window_at_once(lane: Lane, which: int) -> None:
    """And tells the producer that waits for it."""
    lane.window = 1
    lane.put(b"x")
    record = take(lane)
    assert not lane.producer.arm()
    lane.region.collect()
    view = record.view()
    assert (lane.region.collect() == [0]) if which == RECV else readable(lane.bell)
    assert lane.producer.arm()
    assert lane.put(b"y")
    record.release()
    assert bytes(view) == b"x"


def test_several_views_are_one_lease(lane: Lane) -> None:
    lane.window = 3
    ticket = lane.put(body_of(0, 5000))
    record = take(lane)
    views = [record.view(), record.view(), memoryview(record)]
    part = views[0][100:200]
    record.release()
    for view in views:
        assert lane.producer.state(ticket) == LEASED
        view.release()
    assert part == body_of(0, 5000)[100:200], "a view of a view holds on to it as well"
    part.release()
    assert lane.producer.state(ticket) == FREE
    assert lane.producer.queued == 0


def test_a_view_may_end_before_its_record(lane: Lane) -> None:
    ticket = lane.put(b"x")
    record = take(lane)
    with record.view() as view:
        assert view == b"x"
    assert lane.producer.state(ticket) == LEASED
    assert record.body() == b"x"
    record.release()
    assert lane.producer.state(ticket) == FREE


def test_a_view_is_for_reading(lane: Lane) -> None:
    lane.put(b"x")
    record = take(lane)
    view = record.view()
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises((TypeError, BufferError)):
        io.BytesIO(b"y").readinto(record)  # type: ignore[arg-type]
    assert view == b"x"


def test_an_unclaimed_record_has_no_view(send_lane: Lane) -> None:
    send_lane.put(b"x")
    record = send_lane.pop()
    assert record is not None
    with pytest.raises(BufferError):
        record.view()
    assert record.claim()
    assert record.view() == b"x"


@pytest.mark.parametrize("size", SIZES)
def test_a_lease_outlives_everything_else(lane: Lane, size: int) -> None:
    """Close, and the loss of every object: region, segment, both ends, record."""
    lane.put(body_of(7, size))
    record = take(lane)
    view = record.view()
    record.release()
    lane.producer.close()
    region_fd = lane.region.fd
    lane.producer = lane.consumer = lane.region = lane.segment = record = None  # type: ignore[assignment]
    gc.collect()
    os.fstat(region_fd)
    assert view == body_of(7, size)
    view.release()
    del view
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(region_fd)


@pytest.mark.parametrize("size", SIZES)
def test_what_a_cycle_held_is_given_back(lane: Lane, size: int) -> None:
    """The garbage collector clears the references of what it frees; a record has to find its lane all the same."""

    class Holder:
        pass

    window = lane.window = 3
    for _ in range(window):
        lane.put(body_of(0, size))
    holder = Holder()
    holder.__dict__.update(
        me=holder, record=take(lane), leased=take(lane).view(), consumer=lane.consumer, producer=lane.producer
    )
    unclaimed = lane.pop()
    holder.__dict__.update(unclaimed=unclaimed)
    lane.consumer = lane.producer = None
    del holder, unclaimed
    gc.collect()
    lane.adopt_producer()
    assert lane.adopt_consumer() == (lane.which != RECV), "the unclaimed one of an outlet is still there"
    lane.drain()
    assert lane.producer.queued == lane.producer.bytes == 0


def test_a_cycle_of_everything_is_collected() -> None:
    class Holder:
        pass

    for size in SIZES:
        lane, holder = Lane(0), Holder()
        for _ in range(4):
            lane.put(body_of(0, size))
        left = [lane.take(), lane.pop()]
        lane.adopt_consumer()  # whose list of inherited records is a cycle itself
        left.append(lane.take())
        holder.__dict__.update(me=holder, left=left, lane=lane, room=lane.producer.reserve(size))
        fd = lane.region.fd
        lane.close()
        del lane, holder, left
        gc.collect()
        with pytest.raises(OSError):
            os.fstat(fd)


# ---- a child that the user forks


@pytest.mark.parametrize("size", SIZES)
def test_a_forked_child_gives_nothing_back(lane: Lane, size: int) -> None:
    """It has copies of the objects, and drops them when it ends or collects; slots and blocks are its parent's."""
    tickets = [lane.put(body_of(0, size)) for _ in range(2)]
    held: list[object] = [take(lane)]
    record = take(lane)
    view = record.view()
    record.release()

    def drop() -> None:
        view.release()
        held.clear()

    in_child(drop)
    assert [lane.producer.state(ticket) for ticket in tickets] == [CLAIMED, LEASED]
    assert view == body_of(0, size)


def test_a_forked_child_gives_no_reservation_back(send_lane: Lane) -> None:
    held = [send_lane.producer.reserve(100)]
    in_child(held.clear)
    with Memory(send_lane) as memory:
        assert memory.state(0) == WRITING


# ---- copies


@pytest.mark.parametrize("size", [0, *SIZES])
def test_a_body_is_copied_into_a_buffer(lane: Lane, size: int) -> None:
    lane.put(body_of(1, size), b"head")
    record = take(lane)
    buffer = bytearray(b"\xff") * (size + 3)
    assert record.copy_into(buffer) == size
    assert buffer == body_of(1, size) + b"\xff" * 3
    exact = memoryview(bytearray(size))
    assert record.copy_into(exact) == size
    assert exact == body_of(1, size)
    record.release()


def test_a_buffer_that_is_too_small_is_left_alone(lane: Lane) -> None:
    lane.put(b"0123456789")
    record = take(lane)
    buffer = bytearray(9)
    with pytest.raises(TooLongError, match="10 bytes does not fit a buffer of 9"):
        record.copy_into(buffer)
    assert buffer == bytes(9)
    buffer.append(0)  # it is not exported any more
    assert record.copy_into(buffer) == 10 and buffer == b"0123456789"


def test_a_buffer_must_be_writable(lane: Lane) -> None:
    lane.put(b"x")
    record = take(lane)
    for wrong in (b"yy", memoryview(b"yy")):
        with pytest.raises(BufferError):
            record.copy_into(wrong)
    with pytest.raises(TypeError):
        record.copy_into("yy")
    assert record.take_body() == b"x"


def test_a_copy_holds_on_while_another_thread_gives_back(lane: Lane) -> None:
    """A large copy lets other threads run: a release must not pull the memory from under it."""
    body = bytes(range(256)) * (BUDGET // 64)  # in an extent, which would be unmapped
    for _ in range(20):
        lane.put(body)
        record = take(lane)
        copies: list[bytes] = []

        def copy(record: Record = record, copies: list[bytes] = copies) -> None:
            try:
                copies.append(record.body())
            except InternalError as error:  # it was given back before
                assert "given back already" in str(error)

        thread = threading.Thread(target=copy)
        thread.start()
        record.release()
        thread.join()
        assert copies in ([], [body])
        assert lane.producer.queued == 0


# ---- reservations


@pytest.mark.parametrize("size", [0, *SIZES])
def test_a_reservation_is_filled_and_sent(send_lane: Lane, size: int) -> None:
    room = send_lane.producer.reserve(size, b"head", 7, 9)
    assert room is not None and room.live
    with memoryview(room) as view:
        assert view.nbytes == size and not view.readonly
        view[:] = body_of(4, size)
    assert send_lane.pop() is None, "not before it is committed"
    assert send_lane.producer.state(room.commit()) != FREE
    assert not room.live
    record = take(send_lane)
    assert (record.header, record.pipe, record.serial, record.take_body()) == (b"head", 7, 9, body_of(4, size))
    assert (send_lane.producer.queued, send_lane.producer.bytes) == (0, 0)


@pytest.mark.parametrize("size", SIZES)
def test_a_reservation_is_given_up(send_lane: Lane, size: int) -> None:
    send_lane.window = 1
    for _ in range(100):
        room = send_lane.producer.reserve(size)
        assert room is not None
        assert send_lane.producer.reserve(1) is None, "it has a place in the window"
        room.abort()
        assert not room.live
    assert (send_lane.producer.queued, send_lane.producer.bytes) == (0, 0)
    assert send_lane.pop() is None


@pytest.mark.parametrize("size", SIZES)
def test_a_reservation_that_is_dropped_is_given_up(send_lane: Lane, size: int) -> None:
    room = send_lane.producer.reserve(size)
    assert room is not None
    assert send_lane.producer.queued == 1
    del room
    assert (send_lane.producer.queued, send_lane.producer.bytes) == (0, 0)


def test_a_reservation_ends_once(send_lane: Lane) -> None:
    for end in ("commit", "abort"):
        room = send_lane.producer.reserve(5)
        assert room is not None
        getattr(room, end)()
        for act in (room.commit, room.abort, lambda room=room: memoryview(room)):
            with pytest.raises(BufferError, match="sent or given up already"):
                act()


def test_a_reservation_does_not_end_under_a_view(send_lane: Lane) -> None:
    room = send_lane.producer.reserve(5)
    assert room is not None
    view = memoryview(room)
    for end in (room.commit, room.abort):
        with pytest.raises(BufferError, match="still in use"):
            end()
    view[:] = b"hello"
    view.release()
    room.commit()
    assert send_lane.receive() == b"hello"


def test_a_view_keeps_its_reservation(send_lane: Lane) -> None:
    room = send_lane.producer.reserve(5000)
    assert room is not None
    view = memoryview(room)
    del room
    gc.collect()
    view[:] = bytes(5000)
    assert send_lane.producer.queued == 1
    view.release()
    del view
    assert send_lane.producer.queued == 0


def test_reservations_are_sent_in_the_order_of_their_commits(send_lane: Lane) -> None:
    rooms = [send_lane.producer.reserve(1) for _ in range(3)]
    for number in (2, 0, 1):
        room = rooms[number]
        assert room is not None
        with memoryview(room) as view:
            view[0] = number
        room.commit()
    assert send_lane.drain() == [b"\2", b"\0", b"\1"]


def test_reservations_need_window_and_budget(send_lane: Lane) -> None:
    lane = send_lane
    lane.window = 0
    assert lane.producer.reserve(1) is None
    room = lane.producer.reserve(BUDGET, force=True)
    assert room is not None
    assert lane.producer.reserve(1000, force=True) is None
    room.abort()
    assert lane.producer.reserve(1000, force=True) is not None


def test_an_uncommitted_reservation_goes_with_its_process(send_lane: Lane) -> None:
    room = send_lane.producer.reserve(5000)
    send_lane.adopt_producer()
    assert (send_lane.producer.queued, send_lane.producer.bytes) == (0, 0)
    del room


# ---- the file


def test_what_is_made_by_others_is_not_made_by_hand() -> None:
    for wrong in (Region, Record, Reservation):
        with pytest.raises(TypeError):
            wrong()


def blocks(region: Region) -> int:
    """KiB of memory that the file takes."""
    return os.fstat(region.fd).st_blocks // 2


def test_an_extent_goes_back_to_the_kernel(lane: Lane) -> None:
    before = blocks(lane.region)
    lane.put(bytes(64 * BUDGET))
    assert blocks(lane.region) >= before + 60 * 1024
    lane.receive()
    assert lane.producer.queued == 0
    assert blocks(lane.region) < before + 1024


def test_extents_that_a_dead_producer_left_go_back_to_the_kernel(lane: Lane) -> None:
    """Its successor finds two that live, and empties what is before, between and behind them."""
    before = blocks(lane.region)
    for number in range(5):
        lane.put(body_of(number, 16 * BUDGET))
    kept = [take(lane) for _ in range(5)]
    for number in (0, 2, 4):
        kept[number].release()  # FREE, and the producer dies before it sees it
    lane.adopt_producer()
    assert blocks(lane.region) < before + 34 * 1024
    assert [kept[number].take_body() for number in (1, 3)] == [body_of(number, 16 * BUDGET) for number in (1, 3)]
    assert lane.producer.queued == 0
    assert blocks(lane.region) < before + 1024


def test_a_closed_contexts_memory_goes_back_to_the_kernel(make_lane: LaneMaker) -> None:
    region = Region.create(BUDGET)
    other, lane = make_lane(region=region, index=4), make_lane(region=region, index=5)
    before = blocks(region)
    sizes = [100, BUDGET // 2, 16 * BUDGET]
    for each in (other, lane):
        for number, size in enumerate(sizes):
            assert each.put(body_of(number, size))
    region.punch(5)
    assert blocks(region) < before + 18 * 1024
    assert other.drain() == [body_of(number, size) for number, size in enumerate(sizes)]
    again = make_lane(region=region, index=5)
    assert again.pop() is None and again.put(b"as new") and again.receive() == b"as new"


def test_a_segment_is_quiet_when_nobody_uses_it(lane: Lane, which: int) -> None:
    quiet = lane.segment.quiet
    assert quiet()
    ticket = lane.put(b"x")
    assert quiet() == (which == RECV)  # nobody will take what was delivered to a closed context
    assert lane.producer.revoke(ticket)
    assert quiet()
    lane.put(b"x")
    view = take(lane).view()
    assert not quiet()
    view.release()
    del view
    assert quiet()
    lane.put(b"x")
    record = take(lane)
    assert not quiet()  # it is being read
    record.release()
    assert quiet()


def test_a_dead_users_segment_is_quiet_whatever_it_had_taken(recv_lane: Lane) -> None:
    for body in (b"taken", b"leased", b"untaken"):
        recv_lane.put(body)
    taken, view = take(recv_lane), take(recv_lane).view()
    recv_lane.segment.silence()
    assert not recv_lane.segment.quiet()
    recv_lane.segment.silence(True)
    assert recv_lane.segment.quiet()
    del taken, view


def test_a_silenced_segment_gives_nothing_more_but_what_was_taken(recv_lane: Lane) -> None:
    recv_lane.put(b"taken")
    recv_lane.put(b"not taken")
    record = take(recv_lane)
    recv_lane.segment.silence()
    assert recv_lane.pop() is None
    assert not recv_lane.segment.quiet()
    assert record.take_body() == b"taken"
    assert recv_lane.segment.quiet()


def test_a_writer_keeps_what_it_sends(send_lane: Lane) -> None:
    """Sender, segment and region may go: records in a writer's queue hold their memory."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = FrameWriter(ours.fileno(), 0)
        for size in SIZES:
            send_lane.put(body_of(1, size))
            record = take(send_lane)
            writer.push_record(b"", record)
            record.release()
        send_lane.producer = send_lane.consumer = send_lane.region = send_lane.segment = record = None  # type: ignore[assignment]
        gc.collect()
        got = bytearray()
        theirs.setblocking(False)

        def done() -> bool:
            finished = writer.flush()
            try:
                while chunk := theirs.recv(1 << 20):
                    got.extend(chunk)
            except BlockingIOError:
                pass
            return finished and writer.queued == 0

        eventually(done)
    assert got == b"".join(size.to_bytes(8, "big") + body_of(1, size) for size in SIZES)


def test_every_slot_may_be_leased_and_comes_back() -> None:
    with Lane(RECV, window=32768) as lane:
        views = []
        for number in range(SLOTS):
            assert lane.put(number.to_bytes(4, "little"))
            record = take(lane)
            views.append(record.view())
            record.release()
        assert not lane.put(b"no slot")
        assert [int.from_bytes(view, "little") for view in views] == list(range(SLOTS))
        del views, record
        assert lane.producer.queued == 0
        assert lane.put(b"again")


def test_two_regions_ends_do_not_meet() -> None:
    one, two = Region.create(BUDGET), Region.create(BUDGET)
    tx, rx = Sender(one.segment(0), -1, -1), Outlet(two.segment(0), -1)
    tx.window = 1
    assert tx.publish(b"x")
    assert rx.next() is None

"""A lane against a model of it in plain Python: any moves of either side, in any order, successors at any moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ring.support import CLAIMED, FREE, HIGH_WATER, LEASED, PUBLISHED, RECV, SEND, Lane, Memory, body_of
from spworkers.ring import INLINE, Record, Reservation

BUDGET = 256 * 1024
EDGES = [0, 1, INLINE - 1, INLINE, INLINE + 1, 4096, 65536, BUDGET - 1, BUDGET, BUDGET + 1, 3 * BUDGET]
sizes = st.one_of(st.integers(0, 600), st.sampled_from(EDGES), st.integers(0, 20_000))
picks = st.integers(0, 1 << 16)


@dataclass(eq=False)
class Sent:
    """A message that was published, as the model sees it."""

    ticket: int
    header: bytes
    body: bytes
    serial: int
    by_demand: bool = False
    record: Record | None = None
    users: int = 0
    views: list[memoryview] = field(default_factory=list)
    leased: bool = False
    order: int = 0  # of publication


class LaneMachine(RuleBasedStateMachine):
    """The rules are the moves; the lists below say where each message is."""

    which = SEND

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane(self.which, budget=BUDGET, window=8)
        self.memory = Memory(self.lane)
        self.number = 0
        self.waiting: list[Sent] = []  # published, not popped (after an adoption: to be popped again), in order
        self.popped: list[Sent] = []  # not claimed
        self.claimed: list[Sent] = []  # used, or leased
        self.revoked: list[Sent] = []
        self.gone: list[int] = []  # tickets
        self.rooms: list[tuple[Reservation, Sent]] = []
        self.grave: list[Any] = []  # what a process that was killed had: never given back
        self.demand = 0
        self.epoch = self.lane.consumer.epoch if self.which == RECV else 0
        self.most = 0  # slots that were in use at a time
        self.orders = self.first_unpopped = 0

    # ---- what the model knows

    @property
    def live(self) -> int:
        """Messages that take a place in the window."""
        claimed = sum(not sent.leased for sent in self.claimed)
        return len(self.waiting) + len(self.popped) + claimed + len(self.rooms)

    def used(self) -> int:
        return len(self.waiting) + len(self.popped) + len(self.claimed) + len(self.rooms)

    def has_room(self, total: int, force: bool) -> bool:
        if not force and self.live >= self.lane.window:
            return False
        held = self.lane.producer.bytes
        return total <= INLINE or total > BUDGET or held + total <= BUDGET or held == 0

    def make(self, size: int, header_size: int) -> Sent:
        self.number += 1
        return Sent(0, body_of(self.number + 1000, header_size), body_of(self.number, size), self.number)

    def note(self) -> None:
        self.most = max(self.most, self.used())

    # ---- the producer

    @initialize(window=st.integers(0, 40))
    def begin(self, window: int) -> None:
        self.lane.window = window

    @rule(size=sizes, header_size=st.sampled_from([0, 0, 4, 8, 60]), force=st.sampled_from([False, False, True]))
    def publish(self, size: int, header_size: int, force: bool) -> None:
        sent = self.make(size, header_size)
        total = size + header_size
        roomy = self.has_room(total, force)
        if not roomy and self.which == RECV and self.demand and self.has_room(total, True):
            sent.by_demand = roomy = True
        sent.ticket = self.lane.put(sent.body, sent.header, 3, sent.serial, 0, force)
        assert bool(sent.ticket) == roomy
        if sent.ticket:
            self.demand -= sent.by_demand
            self.published(sent)
            self.note()

    def published(self, sent: Sent) -> None:
        self.orders += 1
        sent.order = self.orders
        self.waiting.append(sent)

    @rule(pick=picks)
    def revoke(self, pick: int) -> None:
        alive = self.waiting + self.popped + self.claimed
        if not alive:
            return
        sent = alive[pick % len(alive)]
        possible = sent not in self.claimed and self.lane.producer.state(sent.ticket) == PUBLISHED
        assert self.lane.producer.revoke(sent.ticket) == possible
        if possible:
            self.demand += sent.by_demand
            (self.waiting if sent in self.waiting else self.popped).remove(sent)
            self.revoked.append(sent)
            self.gone.append(sent.ticket)

    @rule(window=st.integers(0, 40))
    def change_window(self, window: int) -> None:
        self.lane.window = window

    @rule(size=sizes, force=st.booleans())
    def arm_producer(self, size: int, force: bool) -> None:
        if self.which == SEND:
            assert self.lane.producer.arm(size, force) == self.has_room(size, force)
        else:
            assert self.lane.producer.arm(size) == self.has_room(size, self.demand > 0)

    @precondition(lambda self: self.which == SEND)
    @rule(size=sizes, header_size=st.sampled_from([0, 5]), force=st.booleans())
    def reserve(self, size: int, header_size: int, force: bool) -> None:
        sent = self.make(size, header_size)
        roomy = self.has_room(size + header_size, force)
        room = self.lane.producer.reserve(size, sent.header, 3, sent.serial, force)
        assert (room is not None) == roomy
        if room is not None:
            self.rooms.append((room, sent))
            self.note()

    @precondition(lambda self: self.rooms)
    @rule(pick=picks)
    def commit(self, pick: int) -> None:
        room, sent = self.rooms.pop(pick % len(self.rooms))
        with memoryview(room) as view:
            view[:] = sent.body
        sent.ticket = room.commit()
        self.published(sent)

    @precondition(lambda self: self.rooms)
    @rule(pick=picks, drop=st.booleans())
    def abort(self, pick: int, drop: bool) -> None:
        room, _ = self.rooms.pop(pick % len(self.rooms))
        if not drop:
            room.abort()

    @rule()
    def adopt_producer(self) -> None:
        """It was killed; what it had not published never was, all else goes on."""
        self.grave += [self.lane.producer, self.rooms]
        self.rooms = []
        self.lane.adopt_producer()
        self.demand, self.epoch = 0, self.epoch + 1
        for sent in self.waiting + self.popped:
            sent.by_demand = False  # its demand was one of the epoch that is over
        if self.which == RECV:
            assert self.lane.consumer.epoch == self.epoch

    # ---- the consumer

    @rule()
    def pop(self) -> None:
        record = self.lane.pop()
        if not self.waiting:
            assert record is None
            return
        assert record is not None
        sent = self.waiting.pop(0)
        sent.record = record
        self.first_unpopped = max(self.first_unpopped, sent.order + 1)
        if self.which == RECV:
            self.own(sent)
        else:
            self.popped.append(sent)
        self.look_at(sent)

    def own(self, sent: Sent) -> None:
        sent.users = 1
        self.claimed.append(sent)

    def look_at(self, sent: Sent) -> None:
        record = sent.record
        assert record is not None
        assert (record.kind, record.pipe, record.serial) == (0, 3, sent.serial)
        assert (record.header, record.size, record.body()) == (sent.header, len(sent.body), sent.body)

    @precondition(lambda self: self.popped)
    @rule(pick=picks)
    def claim(self, pick: int) -> None:
        sent = self.popped.pop(pick % len(self.popped))
        assert sent.record is not None and sent.record.claim()
        self.own(sent)

    @precondition(lambda self: self.revoked)
    @rule(pick=picks)
    def claim_in_vain(self, pick: int) -> None:
        sent = self.revoked.pop(pick % len(self.revoked))
        if sent.record is not None:
            assert not sent.record.claim()

    def used_ones(self) -> list[Sent]:
        return [sent for sent in self.claimed if sent.users]

    @precondition(lambda self: self.used_ones())
    @rule(pick=picks)
    def retain(self, pick: int) -> None:
        sent = self.used_ones()[pick % len(self.used_ones())]
        assert sent.record is not None
        sent.record.retain()
        sent.users += 1

    @precondition(lambda self: self.used_ones())
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        sent = self.used_ones()[pick % len(self.used_ones())]
        assert sent.record is not None
        sent.record.release()
        sent.users -= 1
        self.finish(sent)

    @precondition(lambda self: self.used_ones())
    @rule(pick=picks)
    def take_body(self, pick: int) -> None:
        sent = self.used_ones()[pick % len(self.used_ones())]
        assert sent.record is not None and sent.record.take_body() == sent.body
        sent.users -= 1
        self.finish(sent)

    @precondition(lambda self: self.used_ones())
    @rule(pick=picks)
    def lease(self, pick: int) -> None:
        sent = self.used_ones()[pick % len(self.used_ones())]
        assert sent.record is not None
        sent.views.append(sent.record.view())
        sent.leased = True

    @precondition(lambda self: any(sent.views for sent in self.claimed))
    @rule(pick=picks)
    def end_lease(self, pick: int) -> None:
        leased = [sent for sent in self.claimed if sent.views]
        sent = leased[pick % len(leased)]
        sent.views.pop(pick % len(sent.views)).release()
        self.finish(sent)

    def finish(self, sent: Sent) -> None:
        if not sent.users and not sent.views:
            self.claimed.remove(sent)
            self.gone.append(sent.ticket)
            assert self.lane.producer.state(sent.ticket) == FREE

    @rule()
    def adopt_consumer(self) -> None:
        """It was killed: its leases end, what it had not finished comes first, oldest first."""
        self.grave += [self.lane.consumer, *((sent.record, list(sent.views)) for sent in self.popped + self.claimed)]
        self.gone += [sent.ticket for sent in self.claimed if sent.leased]
        unfinished = [sent for sent in self.claimed if not sent.leased] + self.popped
        for sent in unfinished:
            sent.record, sent.users = None, 0
        popped_once = unfinished + [sent for sent in self.waiting if sent.order < self.first_unpopped]
        assert self.lane.adopt_consumer() == len(popped_once)
        self.waiting = sorted({*self.waiting, *unfinished}, key=lambda sent: sent.order)
        self.popped, self.claimed = [], []

    @precondition(lambda self: self.which == RECV)
    @rule()
    def arm_consumer(self) -> None:
        assert self.lane.consumer.arm() == bool(self.waiting)

    @precondition(lambda self: self.which == RECV)
    @rule()
    def announce(self) -> None:
        epoch = self.lane.consumer.announce()
        assert epoch == self.lane.consumer.epoch
        self.demand += 1

    @precondition(lambda self: self.which == RECV)
    @rule(stale=st.booleans())
    def withdraw(self, stale: bool) -> None:
        epoch = self.lane.consumer.epoch
        possible = self.demand > 0 and not stale
        assert self.lane.consumer.withdraw(epoch + 7 if stale else epoch) == possible
        self.demand -= possible

    # ---- what holds at any time

    @invariant()
    def counts_agree(self) -> None:
        producer = self.lane.producer
        assert producer.queued == self.live
        for sent in self.waiting + self.popped:
            assert producer.state(sent.ticket) in (PUBLISHED, CLAIMED)
        for sent in self.claimed:
            assert producer.state(sent.ticket) == (LEASED if sent.leased else CLAIMED)
        for ticket in self.gone[-20:]:
            assert producer.state(ticket) == FREE and not producer.revoke(ticket)
        if self.which == RECV:
            assert producer.demand == self.demand
        assert self.lane.consumer.corrupt == 0

    @invariant()
    def bytes_stay(self) -> None:
        """Whatever else happens, what is held reads as it was sent."""
        for sent in self.claimed[:4]:
            self.look_at(sent)
        for sent in self.claimed:
            for view in sent.views:
                assert view == sent.body

    def teardown(self) -> None:
        lane = self.lane
        for sent in self.popped:
            assert sent.record is not None and sent.record.claim()
            sent.users = 1
        for sent in self.claimed + self.popped:
            assert sent.record is not None
            for _ in range(sent.users):
                sent.record.release()
            for view in sent.views:
                view.release()
        self.rooms.clear()
        assert lane.drain() == [sent.body for sent in self.waiting]
        assert (lane.producer.queued, lane.producer.bytes) == (0, 0), "something leaked"
        lane.window = 1
        assert lane.put(bytes(BUDGET)), "the arena is whole"
        assert lane.drain() == [bytes(BUDGET)]
        assert self.memory.get(HIGH_WATER, "I") <= (self.most + 1) * 8 // 7 + 2
        self.memory.map.close()
        lane.close()


class ReceiveMachine(LaneMachine):
    which = RECV


limits = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestSendLane = LaneMachine.TestCase
TestSendLane.settings = limits
TestReceiveLane = ReceiveMachine.TestCase
TestReceiveLane.settings = limits

"""Who is to get the next request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spworkers.protocol.crew import Crew, Job, Worker
from spworkers.protocol.peers import Peer


def job() -> Job:
    return Job(Peer(1), b"", b"")


def test_nobody_is_available_at_first() -> None:
    assert Crew().least_loaded() is None


def test_of_equals_the_one_that_waits_longest() -> None:
    crew = Crew()
    workers = [Worker(number, 1) for number in range(3)]
    for worker in workers:
        crew.add(worker)
    assert crew.least_loaded() is workers[0]
    crew.place(workers[0])  # something about it changed
    assert crew.least_loaded() is workers[1]


def test_no_more_than_the_prefetch() -> None:
    crew, worker = Crew(), Worker(1, 2)
    crew.add(worker)
    for available in (True, False):
        worker.jobs.append(job())
        crew.place(worker)
        assert (crew.least_loaded() is worker) == available
    worker.prefetch = 0  # as many as it asks for
    crew.place(worker)
    assert crew.least_loaded() is worker


def test_it_knows_how_many_are_full() -> None:
    crew = Crew()
    workers = [Worker(number, 0) for number in range(3)]
    for worker in workers:
        crew.add(worker)
    for worker in (*workers, *workers):
        worker.full = True
        crew.place(worker)
    assert (crew.full, crew.available) == (3, 0)
    workers[0].full = False
    crew.place(workers[0])
    crew.place(workers[0])
    assert (crew.full, crew.available) == (2, 1)
    for worker in workers:
        assert crew.remove(worker.id) is worker
        assert crew.remove(worker.id) is None
    assert (crew.full, crew.available) == (0, 0)


def test_more_requests_than_levels() -> None:
    crew, busy, busier = Crew(), Worker(1, 0), Worker(2, 0)
    crew.add(busier)
    crew.add(busy)
    for count in range(200):
        busier.jobs.append(job())
        crew.place(busier)
        if count % 2:
            busy.jobs.append(job())
            crew.place(busy)
    assert crew.least_loaded() is not None
    crew.remove(1)
    assert crew.least_loaded() is busier
    assert crew.remove(1) is None
    crew.remove(2)
    assert crew.least_loaded() is None


@given(st.lists(st.tuples(st.sampled_from(["give", "answer", "full", "wants", "leave", "join"]), st.integers(0, 4))))
def test_it_is_always_one_of_the_least_loaded(steps: list[tuple[str, int]]) -> None:
    crew = Crew()
    for step, number in steps:
        worker = crew.workers.get(number)
        if worker is None:
            if step == "join":
                crew.add(Worker(number, number))
            continue
        if step == "leave":
            crew.remove(number)
            continue
        if step == "give":
            worker.jobs.append(job())
        elif step == "answer":
            worker.jobs.popleft()
        else:
            worker.full = step == "full"
        crew.place(worker)
        loads = {
            each: each.jobs.length
            for each in crew.workers.values()
            if not each.full and (each.prefetch == 0 or each.jobs.length < each.prefetch)
        }
        best = crew.least_loaded()
        assert crew.available == len(loads)
        assert (best is None) == (not loads)
        assert best is None or loads[best] == min(loads.values())

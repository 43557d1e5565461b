"""Requests that kill workers, known again."""

from __future__ import annotations

from spworkers.protocol.quarantine import Quarantine


def die(quarantine: Quarantine, payload: bytes, begin: int) -> bool:
    """Another worker dies of it."""
    quarantine.worker_died()
    return quarantine.died(payload, begin)


def test_a_worker_that_had_it_often_died_once() -> None:
    quarantine = Quarantine()
    for death in range(3):
        quarantine.worker_died()
        found = [quarantine.died(name + b"poison", 1) for name in (b"A", b"B", b"C", b"D")]
        assert found == [death == 2, False, False, False]
    assert quarantine.deaths(b"Xpoison", 1) == 3


def test_from_the_third_death_in_a_row() -> None:
    quarantine = Quarantine()
    for deaths in range(3):
        assert quarantine.deaths(b"IDpoison", 2) == 0, deaths
        die(quarantine, b"IDpoison", 2)
    assert quarantine.deaths(b"IDpoison", 2) == 3
    assert quarantine.deaths(b"another IDpoison", 10) == 3
    assert quarantine.deaths(b"IDpoisonous", 2) == 0


def test_an_answer_clears_the_name() -> None:
    quarantine = Quarantine()
    for _ in range(2):
        die(quarantine, b"poison", 0)
    quarantine.survived(b"poison", 0)
    quarantine.survived(b"unknown", 0)
    die(quarantine, b"poison", 0)
    assert quarantine.deaths(b"poison", 0) == 0


def test_the_limit() -> None:
    quarantine = Quarantine()
    quarantine.set_limit(1)
    die(quarantine, b"poison", 0)
    assert quarantine.deaths(b"poison", 0) == 1
    quarantine.set_limit(1)  # that is also how to let everybody out
    assert quarantine.deaths(b"poison", 0) == 0
    quarantine.set_limit(0)
    for _ in range(100):
        die(quarantine, b"poison", 0)
    assert quarantine.deaths(b"poison", 0) == 0


def test_it_does_not_grow_for_ever() -> None:
    quarantine = Quarantine()
    quarantine.set_limit(1)
    for number in range(5000):
        die(quarantine, str(number).encode(), 0)
    known = [number for number in range(5000) if quarantine.deaths(str(number).encode(), 0)]
    assert known == list(range(5000 - 1024, 5000))

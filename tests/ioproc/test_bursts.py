"""Whether a publisher's next messages are waited for."""

from __future__ import annotations

from spworkers.ioproc.bursts import SPARED_MOST, Bursts


def waits(bursts: Bursts, times: int, came: bool) -> list[bool]:
    """For each of so many first messages: whether more was waited for. It `came`, or not."""
    found = []
    for _ in range(times):
        found.append(bursts.worth_waiting())
        if found[-1]:
            bursts.learn(came)
    return found


def test_while_more_comes_it_is_waited_for_each_time() -> None:
    assert waits(Bursts(), 5, True) == [True] * 5


def test_in_vain_it_waits_ever_more_seldom() -> None:
    wait, no = True, False
    assert waits(Bursts(), 12, False) == [wait, no, wait, no, no, no, wait, no, no, no, no, no]


def test_it_never_ceases_to_try() -> None:
    bursts = Bursts()
    waits(bursts, 100, False)
    assert any(waits(bursts, 1 << SPARED_MOST, True))
    assert waits(bursts, 5, True) == [True] * 5

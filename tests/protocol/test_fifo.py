"""The queue from whose middle can be removed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spworkers.protocol.fifo import Fifo
from spworkers.protocol.turnstile import Turn


def members(fifo: Fifo[Turn]) -> list[int]:
    found, node = [], fifo.head
    while node is not None:
        found.append(node.pipe)
        node = fifo.following(node)
    return found


def backwards(fifo: Fifo[Turn]) -> list[int]:
    found, node = [], fifo.tail
    while node is not None:
        found.append(node.pipe)
        before = node.before
        assert before is None or isinstance(before, Turn)
        node = before
    return found


def test_first_in_first_out() -> None:
    fifo: Fifo[Turn] = Fifo()
    for number in (1, 2, 3):
        fifo.append(Turn(number))
    taken = [fifo.popleft(), fifo.popleft(), fifo.popleft()]
    assert [turn.pipe for turn in taken if turn] == [1, 2, 3]
    assert fifo.popleft() is None
    assert len(fifo) == 0


def test_membership_follows_the_node() -> None:
    one, other = Fifo[Turn](), Fifo[Turn]()
    turn = Turn(1)
    one.append(turn)
    assert turn in one
    assert turn not in other
    one.remove(turn)
    assert turn not in one
    other.append(turn)
    assert turn in other


def test_rotate_puts_a_member_last() -> None:
    fifo: Fifo[Turn] = Fifo()
    turns = [Turn(number) for number in (1, 2, 3)]
    for turn in turns:
        fifo.append(turn)
    fifo.rotate(turns[1])
    assert members(fifo) == [1, 3, 2]
    fifo.rotate(turns[1])  # it is last already
    assert members(fifo) == [1, 3, 2]


@given(st.lists(st.tuples(st.sampled_from(["append", "appendleft", "pop", "remove", "rotate"]), st.integers(0, 7))))
def test_it_is_a_list(steps: list[tuple[str, int]]) -> None:
    fifo: Fifo[Turn] = Fifo()
    turns = [Turn(number) for number in range(8)]
    model: list[int] = []
    for step, number in steps:
        turn = turns[number]
        if step in ("append", "appendleft") and number not in model:
            getattr(fifo, step)(turn)
            model.insert(len(model) if step == "append" else 0, number)
        elif step == "pop":
            first = fifo.popleft()
            assert (first.pipe if first else None) == (model.pop(0) if model else None)
        elif step in ("remove", "rotate") and number in model:
            getattr(fifo, step)(turn)
            model.remove(number)
            if step == "rotate":
                model.append(number)
        assert members(fifo) == model
        assert backwards(fifo) == model[::-1]
        assert len(fifo) == fifo.length == len(model)
        assert [turn in fifo for turn in turns] == [number in model for number in range(8)]

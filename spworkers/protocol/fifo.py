"""A queue from whose middle can be removed at once: a doubly linked list through its members.

A pipe that waits for its turn may vanish at any moment, and 10 000 pipes may vanish in the same moment; so taking a
member out must not cost a search (`deque.remove`), nor leave a stale entry that somebody has to clear away later.
"""

from __future__ import annotations

from typing import Generic, TypeVar, cast

__all__ = ["Fifo", "Node"]


class Node:
    """What can stand in a queue; in one at a time."""

    def __init__(self) -> None:
        self.home: object | None = None  # the queue it stands in
        self.before: Node | None = None
        self.after: Node | None = None


N = TypeVar("N", bound=Node)


class Fifo(Generic[N]):
    """A first-in, first-out queue of nodes. Every operation takes constant time.

    `head`, `tail` and `length` are for reading. Going from `head` along `after` visits the members in order.
    """

    def __init__(self) -> None:
        self.length = 0
        self.head: N | None = None
        self.tail: N | None = None

    def append(self, node: N) -> None:
        """Put it at the end; it must stand in no queue."""
        node.home = self
        tail = self.tail
        if tail is None:
            self.head = node
        else:
            tail.after = node
            node.before = tail
        self.tail = node
        self.length += 1

    def appendleft(self, node: N) -> None:
        """Put it before all others; it must stand in no queue."""
        node.home = self
        head = self.head
        if head is None:
            self.tail = node
        else:
            head.before = node
            node.after = head
        self.head = node
        self.length += 1

    def popleft(self) -> N | None:
        """Take the first one out; None: there is none."""
        node = self.head
        if node is not None:
            self.remove(node)
        return node

    def remove(self, node: N) -> None:
        """Take it out, wherever it stands; it must stand in this queue."""
        before = node.before
        after = node.after
        if before is None:
            self.head = cast("N | None", after)
        else:
            before.after = after
        if after is None:
            self.tail = cast("N | None", before)
        else:
            after.before = before
        node.home = None
        node.before = None
        node.after = None
        self.length -= 1

    def rotate(self, node: N) -> None:
        """Put a member at the end: it has had its turn."""
        if node.after is not None:
            self.remove(node)
            self.append(node)

    def following(self, node: N) -> N | None:
        """The member after this one; None: it is the last."""
        return cast("N | None", node.after)

    def __contains__(self, node: N) -> bool:
        return node.home is self

    def __len__(self) -> int:
        return self.length

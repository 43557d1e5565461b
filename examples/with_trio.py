"""A publisher and two subscribers in one trio program; a deadline by trio's own means.

pip install trio && python examples/with_trio.py
"""

from __future__ import annotations

import sys

import spworkers as sp

try:
    import trio
except ModuleNotFoundError:
    print("this example needs trio: pip install trio", file=sys.stderr)
    sys.exit(2)


async def publish(pub: sp.Pub, news: dict[bytes, list[bytes]]) -> None:
    for topic, lines in news.items():
        for line in lines:
            await pub.asend(topic + b": " + line)


async def read(address: str, topic: bytes, ready: trio.Event) -> None:
    """Print what is published on the topic, until nothing comes for a second."""
    async with sp.Sub(dial=address, subscribe=topic) as sub:
        ready.set()
        while True:
            with trio.move_on_after(1.0) as waiting:
                print((await sub.arecv()).decode())
            if waiting.cancelled_caught:  # a cancelled arecv has taken no message
                return


async def main() -> None:
    news = {b"sport": [b"four to two", b"rain stops play"], b"weather": [b"rain"]}
    async with sp.Pub(listen="tcp://127.0.0.1:0") as pub, trio.open_nursery() as nursery:
        for topic in news:
            ready = trio.Event()
            nursery.start_soon(read, pub.listeners[0].address, topic, ready)
            await ready.wait()
        while len(pub.pipes) < len(news):  # noqa: ASYNC110 - the last one may be connected at its own end only
            await trio.sleep(0.01)
        await publish(pub, news)


if __name__ == "__main__":
    if sys.argv[1:]:  # it takes none
        print(__doc__)
    else:
        try:
            trio.run(main)
        except KeyboardInterrupt:
            sys.exit(1)

"""Nodes on a BUS: what one sends, all its neighbours receive. Each listens at its first URL and dials the others.

A=tcp://127.0.0.1:40890 B=tcp://127.0.0.1:40891 C=tcp://127.0.0.1:40892 D=tcp://127.0.0.1:40893
python examples/bus.py node0 $A $B $C &
python examples/bus.py node1 $B $C $D &
python examples/bus.py node2 $C $D &
python examples/bus.py node3 $D $A
"""

from __future__ import annotations

import sys
import time

import spworkers as sp

PAUSE = 1.0  # seconds that the others get to start, and again to connect


def node(name: str, url: str, others: list[str]) -> None:
    """Say the own name once, and show what the others say."""
    with sp.Bus(listen=url) as bus:
        time.sleep(PAUSE)
        for other in others:
            bus.dial(other, dial_asynch=True)  # it may be late
        time.sleep(PAUSE)
        print(f"{name}: SENDING '{name}' ONTO BUS", flush=True)
        bus.send(name.encode())
        for message in bus:
            print(f'{name}: RECEIVED "{message.decode(errors="replace")}" FROM BUS', flush=True)


def main(arguments: list[str]) -> None:
    match arguments:
        case [name, url, other, *others]:
            node(name, url, [other, *others])
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: bus.py NAME URL URL...")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"bus.py: {error}")
    except KeyboardInterrupt:
        pass

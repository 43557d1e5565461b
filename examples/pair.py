"""Two nodes that send each other their names, again and again, over a PAIR.

python examples/pair.py node0 tcp://127.0.0.1:40899 & sleep 1
python examples/pair.py node1 tcp://127.0.0.1:40899
"""

from __future__ import annotations

import contextlib
import sys
import time

import spworkers as sp

PAUSE = 1.0  # seconds between two sends


def send_and_receive(pair: sp.Pair, name: str) -> None:
    """Show what comes, wait a little, say the own name, for ever."""
    pair.recv_deadline = 0.1
    while True:
        with contextlib.suppress(sp.RecvTimeoutError):  # nobody there yet, or slower than we
            print(f'{name}: RECEIVED: "{pair.recv().decode(errors="replace")}"', flush=True)
        time.sleep(PAUSE)
        print(f'{name}: SENDING "{name}"', flush=True)
        pair.send(name.encode())


def main(arguments: list[str]) -> None:
    match arguments:
        case ["node0", url]:
            with sp.Pair(listen=url) as pair:
                send_and_receive(pair, "node0")
        case ["node1", url]:
            with sp.Pair(dial=url) as pair:
                send_and_receive(pair, "node1")
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: pair.py node0|node1 URL")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"pair.py: {error}")
    except KeyboardInterrupt:
        pass

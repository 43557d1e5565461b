"""Messages that go one way: PUSH to PULL.

python examples/pipeline.py node0 tcp://127.0.0.1:40899 & sleep 1
python examples/pipeline.py node1 tcp://127.0.0.1:40899 "Hello, World."
python examples/pipeline.py node1 tcp://127.0.0.1:40899 STOP
"""

from __future__ import annotations

import sys

import spworkers as sp


def node0(url: str) -> None:
    """Receive until somebody says STOP."""
    with sp.Pull(listen=url) as pull:
        for message in pull:
            print(f'NODE0: RECEIVED "{message.decode(errors="replace")}"', flush=True)
            if message == b"STOP":
                print("NODE0: STOPPING")
                return


def node1(url: str, message: str) -> None:
    """Send once. Leaving the block closes the socket, which drains what was sent: no sleep is needed."""
    with sp.Push(dial=url) as push:
        print(f'NODE1: SENDING "{message}"')
        push.send(message.encode())


def main(arguments: list[str]) -> None:
    match arguments:
        case ["node0", url]:
            node0(url)
        case ["node1", url, message]:
            node1(url, message)
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: pipeline.py node0 URL\n       pipeline.py node1 URL MESSAGE")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"pipeline.py: {error}")
    except KeyboardInterrupt:
        pass

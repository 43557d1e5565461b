"""One server publishes the date, any number of clients subscribe to it: PUB and SUB.

python examples/pubsub.py server tcp://127.0.0.1:40899 & sleep 1
python examples/pubsub.py client tcp://127.0.0.1:40899 client0 &
python examples/pubsub.py client tcp://127.0.0.1:40899 client1
"""

from __future__ import annotations

import sys
import time

import spworkers as sp

PAUSE = 1.0  # seconds between two dates


def server(url: str) -> None:
    """Publish for ever, whether anybody listens or not."""
    with sp.Pub(listen=url) as pub:
        while True:
            date = time.ctime()
            print(f"SERVER: PUBLISHING DATE {date}", flush=True)
            pub.send(date.encode())
            time.sleep(PAUSE)


def client(url: str, name: str) -> None:
    """Show what is published. The empty topic is every message."""
    with sp.Sub(dial=url, subscribe=b"") as sub:
        for message in sub:
            print(f"CLIENT({name}): RECEIVED {message.decode(errors='replace')}", flush=True)


def main(arguments: list[str]) -> None:
    match arguments:
        case ["server", url, *_]:
            server(url)
        case ["client", url, name]:
            client(url, name)
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: pubsub.py server URL\n       pubsub.py client URL NAME")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"pubsub.py: {error}")
    except KeyboardInterrupt:
        pass

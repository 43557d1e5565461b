"""One node asks for the date (REQ), the other one knows it (REP).

python examples/reqrep.py node0 tcp://127.0.0.1:40899 & sleep 1
python examples/reqrep.py node1 tcp://127.0.0.1:40899
"""

from __future__ import annotations

import sys
import time

import spworkers as sp


def node0(url: str) -> None:
    """Answer, for ever."""
    with sp.Rep(listen=url) as rep:
        for request in rep:
            if request == b"DATE":  # any other one gets no answer: the next recv lets go of it
                print("NODE0: RECEIVED DATE REQUEST", flush=True)
                date = time.ctime()
                print(f"NODE0: SENDING DATE {date}", flush=True)
                rep.send(date.encode())


def node1(url: str) -> None:
    """Ask once."""
    with sp.Req(dial=url) as req:
        print("NODE1: SENDING DATE REQUEST DATE")
        req.send(b"DATE")
        print(f"NODE1: RECEIVED DATE {req.recv().decode(errors='replace')}")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["node0", url]:
            node0(url)
        case ["node1", url]:
            node1(url)
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: reqrep.py node0|node1 URL")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"reqrep.py: {error}")
    except KeyboardInterrupt:
        pass

"""A broker: any number of requesters and repliers, each of whom knows one address only.

    python examples/broker.py --front tcp://127.0.0.1:5555 --back tcp://127.0.0.1:5556
    nngcat --rep --dial tcp://127.0.0.1:5556 --data pong --ascii      # as many as you like
    nngcat --req --dial tcp://127.0.0.1:5555 --data ping --ascii

It prints how many requests and replies have passed, while they change. Requests go round among the repliers; one that
dies has its request sent again by the requester (RETRY-TIME), to another.
"""

from __future__ import annotations

import argparse
import contextlib
import sys

import spworkers as sp


def main() -> None:
    """Forward until Ctrl-C."""
    parser = argparse.ArgumentParser(description="forward requests and replies between two addresses")
    parser.add_argument("--front", default="tcp://127.0.0.1:5555", help="where requesters dial")
    parser.add_argument("--back", default="tcp://127.0.0.1:5556", help="where repliers dial")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two lines")
    options = parser.parse_args()
    with (
        sp.Rep(raw=True, listen=options.front) as front,
        sp.Req(raw=True, listen=options.back) as back,
        sp.device(front, back) as device,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"requesters: {front.listeners[0].address}, repliers: {back.listeners[0].address}", flush=True)
        shown = {"there": 0, "back": 0}
        while not device.wait(timeout=options.every):
            passed = {way: device.stats()[way] for way in shown}
            if passed != shown:
                shown = passed
                print(f"{passed['there']} requests, {passed['back']} replies", flush=True)


if __name__ == "__main__":
    try:
        main()
    except sp.SPError as error:
        sys.exit(f"broker.py: {error}")

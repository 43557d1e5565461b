"""Ten requests in flight at once from one task group, and a server in the same event loop: the methods with an `a`.

python examples/with_asyncio.py
python examples/with_asyncio.py 1000
"""

from __future__ import annotations

import asyncio
import sys
import time

import spworkers as sp


async def serve(rep: sp.Rep) -> None:
    """One of several servers on one socket, each with a context of its own; it ends when it is cancelled."""
    async with rep.open_context() as context:
        async for request in context:
            await asyncio.sleep(0.01)  # other requests are served meanwhile
            await context.asend(request.upper())


async def ask(req: sp.Req, number: int) -> bytes:
    """A request of its own: contexts do not get in each other's way."""
    async with req.open_context() as context:
        await context.asend(b"request %d" % number)
        return await context.arecv(timeout=10.0)


async def main(requests: int) -> None:
    async with (
        sp.Rep(listen="tcp://127.0.0.1:0") as rep,
        sp.Req(dial=rep.listeners[0].address) as req,
    ):
        servers = [asyncio.create_task(serve(rep)) for _ in range(10)]
        begin = time.perf_counter()
        in_flight = asyncio.Semaphore(100)

        async def limited(number: int) -> bytes:
            async with in_flight:
                return await ask(req, number)

        replies = await asyncio.gather(*(limited(number) for number in range(requests)))
        print(f"{len(replies)} replies in {time.perf_counter() - begin:.2f} s, the last one: {replies[-1].decode()}")
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)


if __name__ == "__main__":
    try:
        match sys.argv[1:]:
            case []:
                asyncio.run(main(10))
            case [number] if number.isdecimal() and len(number) < 7 and 0 < int(number) <= 100_000:
                asyncio.run(main(int(number)))
            case ["-h" | "--help", *_]:
                print(__doc__)
            case _:
                sys.exit("usage: with_asyncio.py [REQUESTS, 100000 at most]")
    except KeyboardInterrupt:
        sys.exit(1)

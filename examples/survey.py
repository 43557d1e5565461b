"""One server asks all clients at once for the date, and takes answers for half a second: SURVEYOR and RESPONDENT.

python examples/survey.py server tcp://127.0.0.1:40899 &
python examples/survey.py client tcp://127.0.0.1:40899 client0 &
python examples/survey.py client tcp://127.0.0.1:40899 client1
"""

from __future__ import annotations

import sys
import time

import spworkers as sp

PAUSE = 1.0  # seconds between two surveys


def server(url: str) -> None:
    """Survey for ever."""
    with sp.Surveyor(listen=url, survey_time=PAUSE / 2) as surveyor:
        while True:
            time.sleep(PAUSE)
            print("SERVER: SENDING DATE SURVEY REQUEST", flush=True)
            surveyor.send(b"DATE")
            while True:
                try:
                    answer = surveyor.recv()
                except (sp.RecvTimeoutError, sp.ProtoStateError):  # it ended while we waited, or before
                    break
                print(f'SERVER: RECEIVED "{answer.decode(errors="replace")}" SURVEY RESPONSE', flush=True)
            print("SERVER: SURVEY OVER", flush=True)


def client(url: str, name: str) -> None:
    """Answer for ever. The client may be started first: it dials until the server is there."""
    with sp.Respondent(dial_asynch=True, dial=url) as respondent:
        for question in respondent:
            print(f'CLIENT({name}): RECEIVED "{question.decode(errors="replace")}" SURVEY REQUEST', flush=True)
            print(f"CLIENT({name}): SENDING DATE SURVEY RESPONSE", flush=True)
            respondent.send(time.ctime().encode())


def main(arguments: list[str]) -> None:
    match arguments:
        case ["server", url, *_]:
            server(url)
        case ["client", url, name]:
            client(url, name)
        case ["-h" | "--help", *_]:
            print(__doc__)
        case _:
            sys.exit("usage: survey.py server URL\n       survey.py client URL NAME")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (sp.SPError, OSError, UnicodeError) as error:
        sys.exit(f"survey.py: {error}")
    except KeyboardInterrupt:
        pass

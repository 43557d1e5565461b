"""What may become of a call, as examples/handlers.py shows it."""

from __future__ import annotations

import subprocess
import sys

from examples.programs import ENV, EXAMPLES, WAIT


def test_handlers() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "handlers.py")],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "primes: [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]",
        "total: 1090",
        "tomorrow: 2027-01-01 00:00:00+00:00",
        "many: [168, 303, 430]",
        "BadArgumentsError: primes(): below: expected int, got str 'many'",
        "UnknownHandlerError: handlers has no handler 'prime'; did you mean 'primes'?",
        "RemoteError: KeyError: 'coffee'",
        "TaskTimeoutError: nap(): the request ran longer than 0.3 s, was stopped, and may not be tried again",
        "after a death: [2, 3, 5, 7] by another worker: True",
    ]
    deaths = done.stderr.splitlines()
    assert len(deaths) <= 2  # both may come too late to be told
    assert all(line.endswith("; it is replaced") for line in deaths)

"""The command line: `python -m benchmarks run`, `list`, `instructions`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import instructions, report, runner
from benchmarks.contract import CASES
from benchmarks.peers import PEERS


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks", description="spworkers beside its peers, alternating in one run"
    )
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run cases and print a markdown table of each")
    run.add_argument(
        "--case",
        action="append",
        choices=sorted(CASES),
        metavar="CASE",
        help="only this case (repeatable; default: all)",
    )
    run.add_argument(
        "--peer",
        action="append",
        choices=sorted(PEERS),
        metavar="PEER",
        help="only this peer (repeatable; default: all)",
    )
    run.add_argument("--rounds", type=positive, default=7, help="how often each peer runs (default: %(default)s)")
    run.add_argument(
        "--seconds", type=float, default=2.0, help="longest measured time of one run (default: %(default)s)"
    )
    run.add_argument(
        "--count", type=positive, default=1_000_000, help="most messages of one run (default: %(default)s)"
    )
    run.add_argument("--json", type=Path, metavar="FILE", help="write everything, every round included, to FILE")
    run.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to FILE as well")
    commands.add_parser("list", help="the cases, and how each peer plays them")
    count = commands.add_parser("instructions", help="instructions per message of the ring alone, counted by callgrind")
    instructions.arguments(count)
    return top


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> int:
    settings = {"rounds": options.rounds, "seconds": options.seconds, "count": options.count}
    peers = options.peer or list(PEERS)
    results = [
        runner.run(case, peers, options.rounds, options.count, options.seconds, tell) for case in options.case or CASES
    ]
    text = report.markdown(results, settings)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(json.dumps(report.document(results, settings), indent=1, ensure_ascii=False) + "\n")
    failed = any(run is None for result in results for runs in result.rounds.values() for run in runs)
    return 1 if failed or not any(result.rounds for result in results) else 0


def show() -> int:
    names, notes = runner.present(list(PEERS))
    offered = {name: PEERS[name].forms() for name in names}
    for case in CASES.values():
        print(f"{case.name}: {case.about}")
        for name, forms in offered.items():
            print(f"    {name}: {case.lacks(name) or forms[case.name].how}")
    for note in notes:
        print(note)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.command == "run":
        return run(options)
    return show() if options.command == "list" else instructions.run(options)


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # of `| head`: nobody wants to read the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush at the exit
        code = 1
    sys.exit(code)

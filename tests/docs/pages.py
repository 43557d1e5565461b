"""Pages of the documentation as programs: what their code blocks say is done, in order, in one folder and namespace.

A block of Python is executed, or written to a file if its first line is that file's name (`# calc.py`). What is to be
done with any other block, or not to be done with one of Python, stands in a comment on the line before it, which
readers do not see:

    <!-- test: run -->         commands that must succeed
    <!-- test: fail -->        commands that must fail, in a sentence
    <!-- test: background -->  a command that runs until the page's end; the page goes on once it has said something
    <!-- test: output -->      what the last command has printed
    <!-- test: says -->        what the one in the background says then, with other numbers, on its stderr
    <!-- test: skip -->        nothing; it needs what a test does not have

The port 5555 stands for one that is free.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from helpers import eventually

import spworkers as sp

WAIT: Final = 60.0
HOME: Final = str(Path(sp.__file__).parents[1])  # of the package that is tested: installed, or the source tree
COMMANDS: Final = {"spworkers": ["-m", "spworkers.cli"], "macat": ["-m", "spworkers.cli.macat"], "python": []}
_BLOCK: Final = re.compile(r"(?:^<!-- test: (\w+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE: Final = re.compile(r"# ([\w/]+\.py)\n")


class Block(NamedTuple):
    """One block: what to do with it, its language, its text, and the line of the page that it begins in."""

    mark: str
    language: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """All code blocks of a page."""
    return [
        Block(found[1] or "", found[2], found[3], page.count("\n", 0, found.start(3)) + 1)
        for found in _BLOCK.finditer(page)
    ]


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "0", text)


class Page:
    """One page that is being done.

    Args:
        name: in errors.
        folder: where its files and commands are.
        port: in place of 5555.
    """

    def __init__(self, name: str, folder: Path, port: int) -> None:
        self._name = name
        self._folder = folder
        self._port = str(port)
        self._names: dict[str, Any] = {"__name__": "page"}
        self._printed = ""
        self._said = folder / "background.log"
        self._env = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, str(folder), os.environ.get("PYTHONPATH", "")])}
        self._stack = ExitStack()

    def do(self, block: Block) -> None:
        """Do what a block says; raises what is wrong with it."""
        text = block.text.replace("5555", self._port)
        file = _FILE.match(text)
        if block.mark == "skip" or (not block.mark and block.language != "python"):
            return
        if block.mark == "output":
            assert self._printed.strip() == text.strip(), f"{self._name}:{block.line}: it printed {self._printed!r}"
        elif block.mark == "says":
            eventually(lambda: _without_numbers(text) in _without_numbers(self._said.read_text()), WAIT)
        elif block.mark:
            for line in text.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    self._command(block, words)
        elif file:
            (self._folder / file[1]).write_text(text)
        else:
            # With the page's own lines, so that a traceback shows where it is.
            exec(compile("\n" * (block.line - 1) + text, self._name, "exec"), self._names)

    def _command(self, block: Block, words: list[str]) -> None:
        command = [sys.executable, *COMMANDS[words[0]], *words[1:]]
        if block.mark == "background":
            self._stack.enter_context(self._background(command))
            return
        done = subprocess.run(
            command, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=WAIT, check=False
        )
        self._printed = done.stdout + done.stderr
        assert (done.returncode != 0) == (block.mark == "fail"), f"{self._name}:{block.line}: {self._printed}"
        assert "Traceback" not in self._printed

    @contextmanager
    def _background(self, command: list[str]) -> Iterator[None]:
        with self._said.open("w") as said:
            process = subprocess.Popen(
                command, cwd=self._folder, env=self._env, stdout=subprocess.PIPE, stderr=said, text=True
            )
        assert process.stdout is not None
        try:
            assert process.stdout.readline(), self._said.read_text()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=WAIT)
        assert process.returncode == 0

    def close(self) -> None:
        """End what runs in the background."""
        self._stack.close()

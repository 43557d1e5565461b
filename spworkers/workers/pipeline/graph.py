"""A picture of a pipeline: its stages, one below the other, as text and as SVG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from spworkers.errors import BadValueError

__all__ = ["Graph", "Node"]

_WIDTH: Final = 320
_HEIGHT: Final = 44
_GAP: Final = 36
_LETTER: Final = 6.2  # pixels that a letter of the small type is wide, about


class Node(NamedTuple):
    """One box: a name, what else there is to say of it, and what goes on from it to the next one, if that is known."""

    name: str
    words: str
    given: str = ""
    failed: str = ""


class Graph:
    """What `Pipeline.graph` returns. `str(graph)` is text, `graph.svg()` SVG, which notebooks show by themselves."""

    def __init__(self, title: str, nodes: Sequence[Node]) -> None:
        self.title = title
        self.nodes = tuple(nodes)

    def __str__(self) -> str:
        width = max(len(node.name) for node in self.nodes)
        lines = [self.title]
        for index, node in enumerate(self.nodes):
            lines.append(f"  {node.name:<{width}}  {node.words}".rstrip())
            if index + 1 < len(self.nodes):
                counts = ", ".join(filter(None, (node.given, node.failed)))
                lines.append(f"    │  {counts}".rstrip())
        return "\n".join(lines)

    def svg(self) -> str:
        """The picture as an SVG document."""
        most = max(len(node.words) for node in self.nodes)
        box = max(_WIDTH, int(most * _LETTER) + 24)
        width, height = box + 20, 40 + len(self.nodes) * (_HEIGHT + _GAP) - _GAP + 10
        middle = width // 2
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
            ' font-family="sans-serif">',
            f"<title>{escape(self.title)}</title>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            f'<text x="{middle}" y="24" text-anchor="middle" font-size="15">{escape(self.title)}</text>',
        ]
        for index, node in enumerate(self.nodes):
            top = 40 + index * (_HEIGHT + _GAP)
            ends = index in {0, len(self.nodes) - 1}
            parts.append(
                f'<rect x="10" y="{top}" width="{box}" height="{_HEIGHT}" rx="{22 if ends else 6}"'
                f' fill="{"#e8f0e4" if ends else "#e6eef8"}" stroke="#567"/>'
            )
            name_at = top + (19 if node.words else 27)
            parts.append(
                f'<text x="{middle}" y="{name_at}" text-anchor="middle" font-size="13">{escape(node.name)}</text>'
            )
            if node.words:
                parts.append(
                    f'<text x="{middle}" y="{top + 35}" text-anchor="middle" font-size="11" fill="#456">'
                    f"{escape(node.words)}</text>"
                )
            if index + 1 < len(self.nodes):
                parts += self._arrow(middle, top + _HEIGHT, node)
        return "\n".join([*parts, "</svg>", ""])

    def _arrow(self, x: int, top: int, node: Node) -> list[str]:
        end = top + _GAP
        parts = [
            f'<line x1="{x}" y1="{top}" x2="{x}" y2="{end - 6}" stroke="#567"/>',
            f'<path d="M{x - 4} {end - 7}h8l-4 7z" fill="#567"/>',
        ]
        at = top + _GAP // 2 + 3
        if node.given:
            parts.append(f'<text x="{x + 10}" y="{at}" font-size="11">{escape(node.given)}</text>')
        if node.failed:
            parts.append(
                f'<text x="{x - 10}" y="{at}" text-anchor="end" font-size="11" fill="#a22">{escape(node.failed)}</text>'
            )
        return parts

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file: SVG if its name ends in .svg, text if it ends in .txt.

        Raises:
            BadValueError: it ends in something else.
            OSError: the file cannot be written.
        """
        file = Path(path)
        if file.suffix not in {".svg", ".txt"}:
            raise BadValueError(f"graph: {str(file)!r} has to end in .svg or .txt")
        file.write_text(self.svg() if file.suffix == ".svg" else f"{self}\n", encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return f"<Graph {self.title}: {' → '.join(node.name for node in self.nodes)}>"

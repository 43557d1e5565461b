"""Thumbnails of many pictures, scaled by worker processes and, to compare, by one.

    python examples/thumbnails.py                          # makes pictures of its own, in a folder that is thrown away
    python examples/thumbnails.py --folder pictures        # every pictures/*.ppm, to pictures/*.png

Scaling is pure Python, so it needs a processor for each picture. A picture that cannot be read fails alone: it is in
the report, and the others are made.
"""

from __future__ import annotations

import argparse
import contextlib
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

import spworkers as sp

FACTOR = 4  # a thumbnail has a quarter of the picture's width and height


def thumbnail(path: Path) -> int:
    """Read a picture (PPM), write its thumbnail (PNG) beside it, return how many bytes that has."""
    width, height, pixels = read_ppm(path)
    return path.with_suffix(".png").write_bytes(png(width // FACTOR, height // FACTOR, shrunk(width, height, pixels)))


def read_ppm(path: Path) -> tuple[int, int, bytes]:
    """Width, height and the pixels, three bytes each, line by line."""
    kind, width, height, most, pixels = (path.read_bytes().split(maxsplit=4) + [b""] * 5)[:5]
    if kind != b"P6" or most != b"255" or len(pixels) != int(width) * int(height) * 3:
        raise ValueError(f"{path} is no PPM of 8 bits")
    return int(width), int(height), pixels


def shrunk(width: int, height: int, pixels: bytes) -> bytes:
    """The mean of each square of FACTOR pixels, for each colour."""
    line = width * 3
    found = bytearray()
    for top in range(0, height // FACTOR * FACTOR, FACTOR):
        lines = [pixels[start : start + line] for start in range(top * line, (top + FACTOR) * line, line)]
        for left in range(0, width // FACTOR * FACTOR * 3, FACTOR * 3):
            for first in range(left, left + 3):
                found.append(sum(sum(each[first : left + FACTOR * 3 : 3]) for each in lines) // FACTOR**2)
    return bytes(found)


def png(width: int, height: int, pixels: bytes) -> bytes:
    """The file: a head, the compressed lines (each after a byte that says how it is filtered: not at all), an end."""
    lines = b"".join(b"\0" + pixels[start : start + width * 3] for start in range(0, len(pixels), width * 3))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of the file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def paint(folder: Path, count: int) -> None:
    """Make pictures: stripes that lean a little more in each."""
    width, height = 320, 240
    stripes = bytes(abs(position % 511 - 255) for position in range(width * 3 * 2))
    for number in range(count):
        starts = [y * number * 3 % (width * 3) for y in range(height)]
        pixels = b"".join(stripes[start : start + width * 3] for start in starts)
        (folder / f"picture{number:03}.ppm").write_bytes(b"P6\n%d %d\n255\n" % (width, height) + pixels)


def job(paths: list[Path], workers: int | None) -> sp.Pipeline:
    """All thumbnails, each by whichever worker is free."""
    return sp.Pipeline("thumbnails").read(paths).map(thumbnail, workers=workers).collect()


def main() -> None:
    """Do it both ways, and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="processes (default: as many as there are processors)")
    parser.add_argument("--pictures", type=int, default=60, help="so many pictures of its own (60)")
    parser.add_argument("--folder", type=Path, help="where pictures are")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.pictures < 1:
            parser.error(f"--pictures {options.pictures}: there is nothing to be made")
        if options.folder is None:
            paint(folder, options.pictures)
        paths = sorted(folder.glob("*.ppm"))
        if not paths:
            sys.exit(f"thumbnails.py: there is no *.ppm in {folder}")
        report = job(paths, options.workers).run()
        print(f"{len(report.result)} thumbnails, {sum(report.result):,} bytes")
        for failure in report.failures:
            print(f"not made: {failure.item}: {failure.error}")
        failed = set(report.failures.items())
        begun = time.perf_counter()
        same = [thumbnail(path) for path in paths if path not in failed]
        seconds = time.perf_counter() - begun
        assert same == report.result
        faster = seconds / report.seconds
        print(f"workers: {report.seconds:.2f} s, one process: {seconds:.2f} s, {faster:.1f} times as fast")


if __name__ == "__main__":
    try:
        main()
    except (sp.SPError, OSError) as error:
        sys.exit(f"thumbnails.py: {error}")
    except KeyboardInterrupt:
        sys.exit(1)

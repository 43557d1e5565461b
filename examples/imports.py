"""What each module of Python's own library imports: a Pipeline from files into a file, which goes on where it was.

    python examples/imports.py --files 200 --output imports.jsonl
    python examples/imports.py --checkpoint imports.ckpt         # kill it, and run it again
    cd examples && spworkers run imports:job --checkpoint imports.ckpt

Some files of the library's tests are no Python on purpose: they fail, are reported, and the others go on.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
from pathlib import Path
from typing import Any

import spworkers as sp

LIBRARY = Path(sysconfig.get_path("stdlib"))


def imported(path: Path) -> dict[str, Any]:
    """The modules that a source file imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return {"file": str(path.relative_to(LIBRARY)), "imports": sorted(found)}


def pipeline(output: str, files: int | None) -> sp.Pipeline:
    """The job: each file is known by its path, so that one which is new is done whenever it comes."""
    paths = sorted(path for path in LIBRARY.rglob("*.py") if "site-packages" not in path.parts)
    read = sp.Pipeline("imports").read(paths[:files], key=str)
    return read.map(imported, timeout=60, retries=1).sink(sp.sinks.jsonl(output))


job = pipeline("imports.jsonl", None)


def main() -> None:
    """Run it, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, help="read only the first so many, 1 or more")
    parser.add_argument("--output", default="imports.jsonl", help="where what is found is written to (imports.jsonl)")
    parser.add_argument("--checkpoint", help="keep the state of the run there")
    options = parser.parse_args()
    if options.files is not None and options.files < 1:
        parser.error(f"--files {options.files}: there is nothing to be read")
    todo = pipeline(options.output, options.files)
    report = todo.run(progress=True, checkpoint=options.checkpoint)
    print(todo.graph(report))
    print(report)
    for failure in report.failures:
        print(f"no Python: {failure.item.name}: {failure.error}")
    most = max(sp.sources.jsonl(options.output), key=lambda found: len(found["imports"]), default=None)
    if most is not None:
        print(f"{most['file']} imports most: {len(most['imports'])} modules")


if __name__ == "__main__":
    try:
        main()
    except (OSError, sp.SPError) as error:
        sys.exit(f"imports.py: {error}")
    except KeyboardInterrupt:
        sys.exit(1)

"""Imports run one way: cli → workers → handles → ring ← ioproc → protocol, transport; all of them → vocabulary."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "spworkers"

# What stands at the top level of the package; whatever is not named here is one of the handles.
LAYER_OF = {
    **dict.fromkeys(("errors", "options", "optionvalues", "attributes", "message", "protocols"), "vocabulary"),
    **dict.fromkeys(("_coerce", "_optiontypes", "_optiontable", "_optiondocs", "_oserrors", "_platform"), "vocabulary"),
    **dict.fromkeys(
        ("_atexit", "_compiling", "_locks", "callhead", "closing", "schemes", "httprequest", "tlsconfig", "tlsstate"),
        "vocabulary",
    ),
    **dict.fromkeys(("_descriptors", "_memory", "certificates", "chance", "lean", "lookaround"), "vocabulary"),
    **dict.fromkeys(("executors", "sinks", "sources"), "workers"),
    "__main__": "cli",
    **dict.fromkeys(("channel", "messages", "outbox", "packet", "webcounts"), "control"),
}
PACKAGES = ("ring", "protocol", "transport", "ioproc", "supervisor", "workers", "cli", "testing")

# Layer → what it may import beside itself and the vocabulary: layers, or single modules of one.
ALLOWED = {
    "vocabulary": set(),
    "control": set(),
    "ring": set(),
    "protocol": set(),
    "transport": {"control", "ring"},
    "supervisor": {"control"},
    "ioproc": {"control", "ring", "protocol", "transport", "spworkers.supervisor.boot"},
    "handles": {"control", "ring", "spworkers.supervisor.boot", "spworkers.supervisor.client"},
    "workers": {"control", "ring", "handles", "spworkers.supervisor.boot", "spworkers.supervisor.client"},
    "cli": {"control", "ring", "handles", "workers", "supervisor", "transport", "protocol", "ioproc"},
    "testing": {"control", "ring", "handles", "workers", "supervisor", "transport", "protocol", "ioproc", "cli"},
}
# A protocol machine does no I/O, reads no clock and starts nothing: these are enough for it.
PURE = {"__future__", "collections", "dataclasses", "enum", "heapq", "itertools", "math", "struct", "typing"}


class Import(NamedTuple):
    """One import of a module, `inside` if it happens in a function and so not when the importing module is loaded."""

    module: str
    line: int
    inside: bool


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
KNOWN = set(MODULES) | {name_of(path) for path in PACKAGE.rglob("*.py[xi]")}


def layer_of(module: str) -> str:
    first = module.split(".")[1]
    return first if first in PACKAGES else LAYER_OF.get(first, "handles")


def imports(module: str) -> list[Import]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return list(walk(ast.parse(path.read_text(), str(path)).body, package, inside=False))


def walk(nodes: list[ast.stmt], package: str, *, inside: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], node.module or ""]).strip(
                "."
            )
            base = base if node.level else str(node.module)
            for alias in node.names:  # "from package import module" imports the module
                full = f"{base}.{alias.name}"
                yield Import(full if full in KNOWN else base, node.lineno, inside)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from walk(node.orelse, package, inside=inside)  # for the type checker only: nothing is loaded
        else:
            within = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for block in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from walk(getattr(node, block, []), package, inside=within)


def ours(found: list[Import]) -> list[Import]:
    return [each for each in found if each.module.split(".")[0] == "spworkers" and each.module != "spworkers"]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "spworkers"])
def test_imports_run_one_way(module: str) -> None:
    layer = layer_of(module)
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{each.line}: {layer} imports {each.module}"
        for each in ours(imports(module))
        if layer_of(each.module) not in {layer, "vocabulary", *ALLOWED[layer]} and each.module not in ALLOWED[layer]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "spworkers" and layer_of(name) == "protocol"])
def test_protocols_do_no_io(module: str) -> None:
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{each.line}: {each.module}"
        for each in imports(module)
        if each.module.split(".")[0] not in PURE | {"spworkers"}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "spworkers"])
def test_nothing_imports_the_top_of_the_package(module: str) -> None:
    # `import spworkers` inside of spworkers works or not depending on who came first.
    assert not [
        each for each in imports(module) if each.module == "spworkers" and not each.inside and layer_of(module) != "cli"
    ]


def test_no_cycles() -> None:
    graph = {
        module: {each.module for each in ours(imports(module)) if not each.inside and each.module in MODULES} - {module}
        for module in MODULES
        if module != "spworkers"
    }
    while leaves := [module for module, needs in graph.items() if not needs]:
        for leaf in leaves:
            del graph[leaf]
        for needs in graph.values():
            needs.difference_update(leaves)
    assert not graph, f"these modules import each other: {', '.join(sorted(graph))}"


def test_the_table_of_layers_has_no_cycle_either() -> None:
    for layer, others in ALLOWED.items():
        for other in others & set(ALLOWED):
            assert layer not in ALLOWED[other], f"{layer} ⇄ {other}"


@pytest.mark.once
def test_a_socket_needs_no_module_that_takes_long() -> None:
    """Each of these was a tenth or more of what opening a first socket cost the user's process."""
    program = "import sys, spworkers; spworkers.Rep; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    slow = {"asyncio", "cryptography", "dataclasses", "difflib", "http", "inspect", "secrets", "ssl", "websockets"}
    assert not slow & set(done.stdout.split())


@pytest.mark.once
def test_a_pool_needs_nothing_of_what_handlers_need() -> None:
    """They took nearly half of what its import took."""
    program = "import sys, spworkers; spworkers.Pool; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    slow = {"decimal", "difflib", "ipaddress", "spworkers.workers.handler", "zoneinfo"}
    assert not slow & set(done.stdout.split())

"""README.md and docs/: every code block of Python is executed, and so are the commands that say so."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from docs.pages import Page, blocks
from interop.interop_peers import free_port

ROOT = Path(__file__).parents[2]
DONE_ELSEWHERE = {"docs/testing.md"}  # by tests/testing/test_page.py
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = {path.relative_to(ROOT).as_posix(): path for path in PAGES}
DOABLE = [
    name
    for name, path in NAMES.items()
    if name not in DONE_ELSEWHERE and any(each.mark or each.language == "python" for each in blocks(path.read_text()))
]


@pytest.mark.parametrize("name", DOABLE)
def test_what_a_page_says_works(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    page = Page(name, tmp_path, free_port())
    try:
        for block in blocks(NAMES[name].read_text()):
            page.do(block)
    finally:
        page.close()
        for module in set(sys.modules) - before:
            if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[module]


@pytest.mark.alike
@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", NAMES[name].read_text()):
        if "://" not in target and not target.startswith("#"):
            assert (NAMES[name].parent / target.partition("#")[0]).exists(), f"{name} links to {target}"


def test_every_example_is_on_its_page() -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    examples = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert sorted(set(re.findall(r"\[(\w+\.py)\]\(\.\./examples/\1\)", page))) == examples


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for name in NAMES:
        short = name.removeprefix("docs/").removesuffix(".md")
        assert name in ("README.md", "docs/index.md") or re.search(rf"^{short}$", index, re.MULTILINE), name

"""How Sphinx builds these pages: `tox -e docs`, or `sphinx-build -W docs build/docs`."""

from __future__ import annotations

import re
from typing import Any

import spworkers

project = "spworkers"
author = project_copyright = "spworkers contributors"
version = release = spworkers.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["build"]
suppress_warnings = ["myst.header"]  # a page may begin with its second level

html_theme = "furo"
html_title = "spworkers"

myst_heading_anchors = 3
# Links out of docs/ go to the source tree, as they do where it is read as files.
myst_url_schemes = {"http": None, "https": None}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "code"  # docstrings have single backticks around names


FENCE = re.compile(r"^(\s*)```(\w*)$")
ATTRIBUTES: dict[str, list[str]] = {}


def before_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Examples stand between backticks, as docstrings are read as files more often than here."""
    done: list[str] = []
    inside = False
    for line in lines:
        fence = FENCE.match(line)
        if fence and not inside:
            inside = True
            done += ["", f"{fence[1]}.. code-block:: {fence[2] or 'text'}", ""]
        elif fence:
            inside = False
            done.append("")
        else:
            done.append(f"   {line}" if inside else line)
    lines[:] = done
    if what in ("attribute", "data", "property"):
        ATTRIBUTES[name] = done


def after_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """An attribute's sentence may have a colon; napoleon takes what stands before it for a type."""
    if name in ATTRIBUTES:
        lines[:] = ATTRIBUTES.pop(name)


def escape_stars(app: Any, context: Any, lines: list[str]) -> None:
    """The help of commands is text for a terminal, where a star (*.example.org) is a star."""
    lines[:] = [re.sub(r"(?<!\*)\*(?!\*)", r"\\*", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("sphinx-click-process-description", escape_stars)
    app.connect("sphinx-click-process-options", escape_stars)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)

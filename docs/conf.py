"""Sphinx: the pages of this folder, and the API reference from the docstrings.

    pip install -e ".[docs]" && python -m sphinx -W -b html docs docs/_build

Nothing is downloaded while it builds.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ganexp

project = "ganexp"
author = copyright = "the ganexp authors"
version = release = ganexp.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "contents"
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"ganexp {release}"
html_show_copyright = False
highlight_language = "none"  # blocks say what they are

myst_heading_anchors = 4  # as GitHub makes them
myst_enable_extensions: list[str] = []

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False


def as_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Our docstrings are plain text with `code`, as reStructuredText: prose is escaped, tables and lists stay as they are."""
    paragraphs = "\n".join(lines).strip("\n").split("\n\n")
    lines[:] = "\n\n".join(literal(p) if re.search(r"^( |- )", p, re.M) else prose(p) for p in paragraphs).splitlines()


def literal(paragraph: str) -> str:
    return "::\n\n" + "\n".join(f"    {line}" for line in paragraph.splitlines())


def prose(paragraph: str) -> str:
    parts = re.split(r"(`[^`]+`)", paragraph)
    return "".join(
        f"``{' '.join(part[1:-1].split())}``" if part.startswith("`") else re.sub(r"([*|\\]|_(?=\W|$))", r"\\\1", part)
        for part in parts
    )


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_rst)

"""Markdown that shows text from files as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST = 1000  # characters of one value


def escaped(value: object) -> str:
    """Text as Markdown that shows just this text, on one line: no markup, HTML, links or table cells of its own."""
    text = "".join(c if c.isprintable() else " " for c in str(value))  # line ends, and marks that turn the direction of text
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else text[:LONGEST] + " …"
    text = re.sub(r"([\\`*_{}\[\]<>#|~&!$^@])", r"\\\1", text)
    return re.sub(r"(?i)(www)\.|:(?=//)", lambda found: f"{found[1]}\\." if found[1] else "\\:", text)  # else links by themselves


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table. Cells are escaped."""
    lines = ["| " + " | ".join(map(escaped, header)) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(escaped, row)) + " |" for row in rows])

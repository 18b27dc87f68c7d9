"""Write quantities for people. Values of files, which may be damaged, are written too: the empty string for no number."""

from __future__ import annotations


def grouped(count: object) -> str:
    """`12,345`."""
    return f"{count:,}" if isinstance(count, int | float) else ""


def duration(seconds: object) -> str:
    """`8.2 ms`, `4.1 s`, `3 min 20 s`, `5 h 10 min`, `2 days 3 h`."""
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    for one, unit, below, smaller in ((86400, "days", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= one:
            return f"{seconds // one:.0f} {unit} {seconds % one // below:.0f} {smaller}"
    return f"{seconds // 60:.0f} min {seconds % 60 // 1:.0f} s"


def size(count: float) -> str:
    """`12 kB`, `3.4 MB`, `1.2 GB`."""
    for one, unit in ((1e9, "GB"), (1e6, "MB")):
        if count >= 0.9995 * one:
            return f"{count / one:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"

"""Standard output and standard error of a process whose results are files: it goes on if nobody can read them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Screen:
    """A text stream. What cannot be written, because the stream is closed, its disk full or its reader gone, is dropped from then
    on. `lost`: whether anything was."""

    def __init__(self, stream: Any):
        self.stream, self.lost = stream, False
        if isinstance(stream, io.TextIOWrapper):  # pipes on Windows cannot encode ×; file names may not be UTF-8
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        with self.dropping():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self.dropping():
            self.stream.flush()

    @contextmanager
    def dropping(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: closed in this process
            self.lost = True
            with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:  # what is in the buffer goes there too
                os.dup2(nowhere.fileno(), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def screens() -> Iterator[None]:
    """Replace sys.stdout and sys.stderr by Screens. Closed descriptors are opened: the next file of the process would get their
    numbers, and what libraries print would be written into it."""
    before = sys.stdout, sys.stderr
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    files = [stream or open(number, "w", closefd=False) for number, stream in enumerate(before, 1)]  # noqa: SIM115
    sys.stdout, sys.stderr = map(Screen, files)
    try:
        yield
    finally:
        for screen in (sys.stdout, sys.stderr):
            screen.flush()
        sys.stdout, sys.stderr = before

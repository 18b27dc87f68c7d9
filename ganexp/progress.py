"""Progress of long work: a bar on a terminal, elsewhere lines; the log has the lines in any case."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)
FIRST, LAST = 5.0, 300.0  # seconds between two lines: at first, and at most
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"


class Cadence:
    """The times of lines: after FIRST seconds, then after every fifth of the time so far, and at least every LAST seconds. A run
    of four minutes has about 14 lines, one of a day about 300."""

    def __init__(self) -> None:
        self.started = self.last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a line; its time is then noted."""
        now = time.monotonic()
        if now - self.last < min(max(FIRST, (now - self.started) / 5), LAST):
            return False
        self.last = now
        return True


class Lines(io.StringIO):
    """Takes what tqdm writes to a screen, and writes it as lines at the times of Cadence."""

    def __init__(self) -> None:
        super().__init__()
        self.cadence = Cadence()

    def write(self, text: str) -> int:
        if (line := text.strip()) and self.cadence.due():
            print(line, file=sys.stderr, flush=True)
            log.info(line)
        return len(text)


def bar(
    iterable: Iterable[Any] | None, desc: str, total: int | None = None, initial: int = 0, delay: float = 0.0
) -> tqdm[Any]:  # fmt: skip
    """Returns a tqdm bar that disappears at its end; without a terminal it writes lines. `delay`: seconds before it appears."""
    lines: dict[str, Any] = {} if sys.stderr.isatty() else {"file": Lines(), "bar_format": LINE, "mininterval": 1.0}
    return tqdm(iterable, desc, total, leave=False, initial=initial, delay=delay, **lines)
